// Both stages at work in the page: prior.js writes codes, decoder.js paints them. Every
// `.minivim-generator` comes to life; where something is missing, a picture and a line
// stand in its place. Its state is in the address: see `remember` and `recall`.
"use strict";

(() => {
  const { make, chooser, ink } = minivim.page;
  const HERE = document.currentScript?.src;
  const ADDRESS = location.protocol !== "about:"; // a cell of Jupyter has none
  const PACES = { slow: 450, normal: 85, "at once": 0 };
  const BARS = 9; // codes shown one by one; the others are one bar
  const FIRST = { label: "star", temperature: 1, topK: 256, guidance: 1, seed: 8 };
  const STILL = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const percent = (p) =>
    p >= 0.995 ? "100 %" : p >= 0.0095 ? `${Math.round(100 * p)} %`
      : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : p > 0 ? "< 0.1 %" : "0 %";

  // Positions of top-k's slider: every number up to 8, then fewer.
  const STEPS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256];

  class Generator {
    constructor(box, decoder, prior, { patches, tokenizer }) {
      if (tokenizer !== decoder.hash) throw Error("the prior was made for other weights");
      Object.assign(this, { box, decoder, prior });
      this.size = decoder.config.image_size;
      this.patch = decoder.config.patch_size;
      this.grid = prior.config.grid;
      this.patches = Uint8Array.from(atob(patches), (c) => c.charCodeAt(0));
      this.settings = { ...FIRST };
      this.edits = new Map(); // position -> code that the reader chose
      this.selected = null;
      this.build();
      addEventListener("hashchange", () => this.recall() && this.show());
      if (this.recall()) this.show();
      else this.generate({ quiet: true });
    }

    // ---- The page ----------------------------------------------------------------

    build() {
      this.box.style.setProperty("--grid", this.grid);
      this.classes = chooser("what to draw", "classes",
        this.prior.classNames.map((name) => make("button", {}, name)), (i) => {
          this.settings.label = this.prior.classNames[i];
          this.generate();
        });
      this.button = this.press("go", "Generate", () => this.go());
      this.stepper = this.press("one", "One code", () => this.advance());
      this.attend = this.select("attention", {
        "all heads": "mean",
        ...Object.fromEntries(Array.from({ length: this.prior.config.stack.heads },
          (_, h) => [`head ${h + 1}`, h])),
        off: "off",
      }, () => this.showAttention());
      this.pace = this.select("pace", Object.fromEntries(Object.keys(PACES).map((p) => [p, p])),
        () => {});
      this.pace.value = STILL ? "at once" : "normal";
      this.status = make("p", { role: "status" });
      this.link = make("a", { class: "link", href: "#" }, "Link to this picture");
      this.python = make("pre", { tabindex: 0, "aria-label": "the same picture in Python" });
      this.box.replaceChildren(
        make("div", { class: "top" }, this.classes.element,
          make("div", { class: "run" }, this.button, this.stepper)),
        this.buildStage(),
        this.buildBars(),
        this.status,
        this.buildSettings(),
        make("div", { class: "foot" }, ...(ADDRESS ? [this.link] : []),
          make("details", {}, make("summary", {}, "The same picture in Python"), this.python)));
      this.box.classList.add("alive");
    }

    press(kind, words, onPress) {
      const button = make("button", { type: "button", class: kind }, words);
      button.addEventListener("click", onPress);
      return button;
    }

    select(words, options, onChange) {
      const select = make("select", { "aria-label": words });
      for (const name in options) select.append(make("option", { value: options[name] }, name));
      select.addEventListener("change", onChange);
      return select;
    }

    buildStage() {
      this.start = make("span", { class: "start" });
      this.cells = Array.from({ length: this.prior.tokens }, (_, i) => {
        const cell = make("div", { role: "gridcell", tabindex: i ? -1 : 0 });
        cell.append(make("span", {}), make("i", {}));
        cell.addEventListener("click", () => this.choose(i));
        return cell;
      });
      const rows = Array.from({ length: this.grid }, (_, r) =>
        make("div", { role: "row" }, ...this.cells.slice(r * this.grid, (r + 1) * this.grid)));
      this.tokens = make("div", { role: "grid", class: "tokens", "aria-label":
        "the codes: arrow keys move, Enter chooses one to change" }, ...rows);
      this.tokens.addEventListener("keydown", (event) => this.key(event));
      this.canvas = make("canvas", { width: this.size, height: this.size, role: "img" });
      this.canvas.addEventListener("click", ({ offsetX, offsetY }) => {
        const at = (offset) => Math.floor((offset / this.canvas.clientWidth) * this.grid);
        this.choose(at(offsetY) * this.grid + at(offsetX));
      });
      this.frame = make("div", { class: "frame", "aria-hidden": true });
      const note = make("label", {}, make("i", { class: "dot" }), "attention: ", this.attend);
      return make("div", { class: "stage" },
        make("figure", {},
          make("figcaption", {}, make("b", {}, "1. The prior writes codes")),
          make("div", { class: "panel" }, this.tokens),
          make("div", { class: "note" }, this.start, note)),
        make("figure", {},
          make("figcaption", {}, make("b", {}, "2. The decoder paints")),
          make("div", { class: "panel" }, this.canvas, this.frame),
          make("div", { class: "note" }, this.pacing())));
    }

    pacing() {
      return make("label", {}, "pace: ", this.pace);
    }

    buildBars() {
      this.heading = make("p", { class: "title" });
      this.bars = Array.from({ length: BARS + 1 }, (_, i) => {
        const button = make("button", { type: "button", tabindex: i ? -1 : 0 });
        const side = { width: this.patch, height: this.patch };
        button.append(make("span", { class: "share" }), make("span", { class: "bar" }, make("i", {})),
          make("canvas", { ...side, "aria-hidden": true }), make("span", { class: "code" }));
        button.addEventListener("click", () => this.exchange(Number(button.dataset.code)));
        return button;
      });
      this.bars[BARS].className = "rest";
      this.bars[BARS].disabled = true;
      const toolbar = make("div", { role: "toolbar", class: "bars", "aria-label":
        "codes for this place, most probable first: Enter takes one" }, ...this.bars);
      toolbar.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        event.stopPropagation(); // the theme would turn over
        this.bars[this.bars.indexOf(document.activeElement) + step]?.focus();
      });
      return make("div", { class: "next" }, this.heading, toolbar);
    }

    buildSettings() {
      const slider = (name, words, { min, max, step }, toValue, toPlace, told) => {
        const input = make("input", { type: "range", min, max, step, "aria-label": words });
        const output = make("b", {});
        const tell = () => {
          output.textContent = told(toValue(Number(input.value)));
          input.setAttribute("aria-valuetext", output.textContent);
        };
        input.addEventListener("input", () => {
          this.settings[name] = toValue(Number(input.value));
          tell();
          this.showButton();
        });
        // JupyterLab takes the arrow keys, and so does the theme.
        input.addEventListener("keydown", (event) => event.stopPropagation());
        this.controls.push(() => {
          input.value = toPlace(this.settings[name]);
          tell();
        });
        return make("label", {}, make("span", {}, `${words} `, output), input);
      };
      const same = (x) => x;
      this.controls = [];
      const seed = make("input", { type: "number", min: 0, max: 2 ** 31 - 1, "aria-label": "seed" });
      seed.addEventListener("input", () => {
        if (!seed.value || !seed.checkValidity()) return;
        this.settings.seed = Number(seed.value);
        this.showButton();
      });
      this.controls.push(() => (seed.value = this.settings.seed));
      return make("div", { class: "settings" },
        slider("temperature", "temperature", { min: 0.1, max: 2, step: 0.1 }, same, same,
          (t) => t.toFixed(1)),
        slider("topK", "top-k", { min: 0, max: STEPS.length - 1, step: 1 }, (i) => STEPS[i],
          (k) => STEPS.findIndex((s) => s >= k), (k) => (k === 256 ? "all" : String(k))),
        slider("guidance", "guidance", { min: 0, max: 6, step: 0.5 }, same, same,
          (g) => (g === 1 ? "off" : g.toFixed(1))),
        make("label", {}, make("span", {}, "seed"), seed));
    }

    // ---- What happens ------------------------------------------------------------

    get total() {
      return this.prior.tokens;
    }

    get written() {
      return this.draw.codes.length;
    }

    // The place that the bars speak of.
    get place() {
      return this.selected ?? Math.min(this.written, this.total - 1);
    }

    get stale() {
      return Object.keys(FIRST).some((name) => this.settings[name] !== this.drawn[name]);
    }

    begin() {
      this.stop();
      this.drawn = { ...this.settings };
      const { num_codes } = this.prior.config;
      const { label, temperature, topK, guidance, seed } = this.drawn;
      this.draw = new minivim.Draw(this.prior, {
        label: this.prior.classNames.indexOf(label), temperature, topK, guidance,
        noise: minivim.gumbel(seed, this.total, num_codes),
      });
      this.edits.clear();
      this.selected = null;
    }

    generate({ quiet = false } = {}) {
      this.quiet = quiet; // the address stays as it is until the reader does something
      this.begin();
      this.play(quiet && STILL ? "at once" : undefined);
    }

    // The main button: pause, continue, or a new picture, with a new seed where
    // everything else is as before.
    go() {
      if (this.timer) {
        this.stop();
        this.settle();
      } else if (this.written < this.total && !this.stale) {
        this.quiet = false;
        this.selected = null;
        this.play();
      } else {
        if (!this.stale) this.settings.seed = (this.settings.seed + 1) % 2 ** 31;
        this.generate();
      }
    }

    play(pace = this.pace.value) {
      this.selected = null;
      if (!PACES[pace]) {
        this.draw.finish();
        return this.settle();
      }
      this.status.textContent = "";
      const tick = () => {
        const began = performance.now();
        this.draw.write();
        if (this.written === this.total) {
          this.timer = null;
          return this.settle();
        }
        this.show();
        const rest = (PACES[this.pace.value] || 1) - (performance.now() - began);
        this.timer = setTimeout(tick, Math.max(1, rest));
      };
      this.timer = setTimeout(tick, PACES[pace]);
      this.show();
    }

    stop() {
      clearTimeout(this.timer);
      this.timer = null;
    }

    // One code more, then wait.
    advance() {
      this.stop();
      this.quiet = false;
      if (this.stale || this.written === this.total) this.begin();
      this.selected = null;
      this.draw.write();
      this.settle();
    }

    // At rest: the address is kept, and a sentence says what there is to do.
    settle() {
      if (this.written === this.total && this.selected === null) {
        this.selected = this.leastLikely();
      }
      this.show();
      if (!this.quiet && ADDRESS) history.replaceState(null, "", this.remember());
    }

    chance(position) {
      return this.draw.at(position).probabilities[this.draw.codes[position]];
    }

    // Where something else might well have been drawn: there a change is worth a try.
    leastLikely() {
      const chances = this.draw.codes.map((_, i) => this.chance(i));
      return chances.indexOf(Math.min(...chances));
    }

    // A token to change.
    choose(position) {
      if (position >= this.written) return;
      this.stop();
      this.quiet = false;
      this.selected = position;
      this.settle();
    }

    // Another code at the place, and on from there.
    exchange(code) {
      const place = this.place;
      if (this.timer || code === this.draw.codes[place]) return;
      this.quiet = false;
      for (const other of [...this.edits.keys()]) if (other >= place) this.edits.delete(other);
      this.edits.set(place, code);
      this.draw.back(place);
      this.draw.write(code);
      this.play();
    }

    key(event) {
      const { key } = event, last = this.total - 1;
      const from = this.cells.indexOf(document.activeElement);
      const column = from % this.grid;
      const to = {
        ArrowLeft: from - (column > 0), ArrowRight: from + (column < this.grid - 1),
        ArrowUp: from - this.grid, ArrowDown: from + this.grid,
        Home: event.ctrlKey ? 0 : from - column,
        End: event.ctrlKey ? last : from - column + this.grid - 1,
      }[key];
      if (key === "Enter" || key === " ") this.choose(from);
      else if (to === undefined) return;
      else if (to >= 0 && to <= last) this.focusCell(to);
      event.preventDefault();
      event.stopPropagation(); // the theme would turn over, JupyterLab would run cells
    }

    focusCell(position) {
      this.cells.forEach((cell, i) => (cell.tabIndex = i === position ? 0 : -1));
      this.cells[position].focus();
    }

    // ---- The address -------------------------------------------------------------

    remember() {
      const { label, temperature, topK, guidance, seed } = this.drawn;
      const set = [...this.edits].map(([at, code]) => `${at}.${code}`).join("_");
      const state = { class: label, t: temperature, k: topK, g: guidance, seed };
      if (set) state.set = set;
      if (this.written < this.total) state.at = this.written;
      if (this.selected !== null) state.token = this.selected;
      return `#${new URLSearchParams(state)}`;
    }

    // Whether the address holds a state, which is then restored.
    recall() {
      const given = new URLSearchParams(location.hash.slice(1));
      const { num_codes } = this.prior.config, tokens = this.total;
      const number = (name, low, high, otherwise) => {
        const value = Number(given.get(name));
        return given.get(name) && value >= low && value <= high ? value : otherwise;
      };
      const whole = (...rest) => Math.floor(number(...rest));
      if (!this.prior.classNames.includes(given.get("class"))) return false;
      this.settings = {
        label: given.get("class"),
        temperature: number("t", 0.01, 100, FIRST.temperature),
        topK: whole("k", 1, num_codes, FIRST.topK),
        guidance: number("g", 0, 100, FIRST.guidance),
        seed: whole("seed", 0, 2 ** 31 - 1, FIRST.seed),
      };
      this.quiet = true; // it is there already
      this.begin();
      for (const pair of (given.get("set") ?? "").split("_").filter(Boolean)) {
        const [at, code] = pair.split(".").map(Number);
        if (at >= 0 && at < tokens && code >= 0 && code < num_codes) this.edits.set(at, code);
      }
      const until = whole("at", 0, tokens, tokens);
      while (this.written < until) this.draw.write(this.edits.get(this.written));
      const token = whole("token", 0, this.written - 1, -1);
      this.selected = token >= 0 ? token : until === tokens ? this.leastLikely() : null;
      return true;
    }

    // ---- What is shown -----------------------------------------------------------

    where(i) {
      return `row ${Math.floor(i / this.grid) + 1}, column ${(i % this.grid) + 1}`;
    }

    show() {
      this.controls.forEach((tell) => tell());
      this.classes.choose(this.prior.classNames.indexOf(this.settings.label));
      this.showButton();
      this.pixels = this.decoder.decode(this.filled());
      this.showPicture();
      this.showTokens();
      this.showAttention();
      this.showBars();
      if (this.timer) return;
      this.status.textContent = this.words();
      this.link.href = this.remember();
      this.python.textContent = this.code();
    }

    showButton() {
      const running = Boolean(this.timer), done = this.written === this.total;
      this.button.textContent = running ? "Pause" : done || this.stale ? "Generate" : "Continue";
    }

    showTokens() {
      this.cells.forEach((cell, i) => {
        const code = this.draw.codes[i], there = i < this.written;
        const colour = there ? this.colour(i) : "";
        cell.firstChild.textContent = there ? code : "";
        cell.style.background = there ? `#${colour}` : "";
        cell.style.color = there ? ink(colour) : "";
        cell.setAttribute("aria-label",
          `${this.where(i)}: ${there ? `code ${code}` : "not written yet"}`);
        cell.setAttribute("aria-selected", i === this.selected);
        cell.setAttribute("aria-disabled", !there);
        cell.classList.toggle("now", i === this.place);
        cell.classList.toggle("given", this.edits.has(i));
      });
    }

    // A patch of pixels as bytes, in rows.
    cut(pixels, place) {
      const { patch, size, grid } = this, found = new Uint8Array(3 * patch * patch);
      const top = Math.floor(place / grid) * patch, left = (place % grid) * patch;
      for (let row = 0; row < patch; row++) {
        for (let j = 0; j < 3 * patch; j++) {
          found[3 * row * patch + j] = 255 * pixels[3 * ((top + row) * size + left) + j];
        }
      }
      return found;
    }

    // The mean colour of what is painted at a place, six digits.
    colour(place) {
      const bytes = this.cut(this.pixels, place), count = bytes.length / 3;
      return [0, 1, 2].map((c) => {
        let sum = 0;
        for (let i = 0; i < count; i++) sum += bytes[3 * i + c];
        return Math.round(sum / count).toString(16).padStart(2, "0");
      }).join("");
    }

    // Frames as thick as the attention, when the code at the place was written.
    showAttention() {
      const { attention } = this.draw.at(this.place), count = this.place + 1;
      const heads = attention.length / count, chosen = this.attend.value;
      const weight = (t) => {
        if (chosen === "off") return 0;
        if (chosen !== "mean") return attention[chosen * count + t];
        let sum = 0;
        for (let h = 0; h < heads; h++) sum += attention[h * count + t] / heads;
        return sum;
      };
      this.cells.forEach((cell, i) => {
        const share = i + 1 < count ? weight(i + 1) : 0;
        const thick = share < 0.02 ? 0 : Math.sqrt(Math.min(1, 4 * share));
        cell.lastChild.style.setProperty("--thick", thick);
      });
      this.start.textContent = chosen === "off" ? `class: ${this.drawn.label}`
        : `class: ${this.drawn.label}, ${percent(weight(0))}`;
    }

    // The codes so far; in the place of the others the first one, a plain background.
    filled(codes = this.draw.codes) {
      return Array.from({ length: this.total }, (_, i) => codes[i] ?? codes[0] ?? 0);
    }

    showPicture() {
      const image = new ImageData(this.size, this.size), { written, pixels } = this;
      for (let i = 0; i < this.size ** 2; i++) {
        const [row, column] = [Math.floor(i / this.size), i % this.size];
        const token = Math.floor(row / this.patch) * this.grid + Math.floor(column / this.patch);
        for (let c = 0; c < 3; c++) image.data[4 * i + c] = 255 * pixels[3 * i + c];
        image.data[4 * i + 3] = token < written ? 255 : written ? 50 : 0;
      }
      this.canvas.getContext("2d").putImageData(image, 0, 0);
      this.canvas.setAttribute("aria-label", written === this.total
        ? `a ${this.drawn.label}, painted from 64 codes` : `the picture, ${written} of 64 codes painted`);
      this.frame.style.left = `${(100 * (this.place % this.grid)) / this.grid}%`;
      this.frame.style.top = `${(100 * Math.floor(this.place / this.grid)) / this.grid}%`;
    }

    // The most probable codes of the place, with the one that was or will be drawn.
    candidates() {
      const { probabilities } = this.draw.at(this.place);
      const taken = this.draw.codes[this.place] ?? this.draw.drawn(this.place);
      const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
      const shown = order.slice(0, BARS);
      if (!shown.includes(taken)) shown[BARS - 1] = taken;
      return { shown, taken, probabilities };
    }

    showBars() {
      const { shown, taken, probabilities } = this.candidates();
      const open = !this.timer, fixed = this.place < this.written;
      this.heading.replaceChildren(
        make("b", {}, fixed ? "3. Change this code" : "3. The next code"),
        ` ${this.where(this.place)}`);
      let rest = 1;
      shown.forEach((code, i) => {
        const bar = this.bars[i], p = probabilities[code];
        rest -= p;
        bar.dataset.code = code;
        bar.disabled = !open;
        bar.classList.toggle("taken", code === taken);
        const told = code === taken ? (fixed ? ", written" : ", drawn next") : "";
        this.fillBar(bar, p, make("span", { class: "said" }, " code "), code,
          make("span", { class: "said" }, told));
        this.paintPatch(bar.querySelector("canvas"), this.patches, code * this.patch ** 2);
      });
      const others = probabilities.reduce((n, p) => n + (p > 0), 0) - BARS;
      this.fillBar(this.bars[BARS], Math.max(0, rest), others > 0 ? `+ ${others}` : "none",
        make("span", { class: "said" }, " others"));
      clearTimeout(this.painting);
      if (open) this.painting = setTimeout(() => this.paintCandidates(shown, 0), 50);
    }

    fillBar(bar, p, ...words) {
      const [share, tube, , code] = bar.children;
      share.textContent = percent(p).replaceAll(" ", ""); // ten in a row on a telephone
      tube.firstChild.style.height = `${100 * Math.max(p, p > 0 ? 0.01 : 0)}%`;
      code.replaceChildren(...words);
    }

    // At rest there is time to decode the picture with each of them: its own patch.
    paintCandidates(shown, i) {
      if (this.timer || i === shown.length) return;
      const codes = [...this.draw.codes], { place } = this;
      codes[place] = shown[i];
      const found = this.cut(this.decoder.decode(this.filled(codes)), place);
      this.paintPatch(this.bars[i].querySelector("canvas"), found, 0);
      this.painting = setTimeout(() => this.paintCandidates(shown, i + 1), 10);
    }

    paintPatch(canvas, colours, start) {
      const image = new ImageData(this.patch, this.patch);
      for (let i = 0; i < this.patch ** 2; i++) {
        for (let c = 0; c < 3; c++) image.data[4 * i + c] = colours[3 * (start + i) + c];
        image.data[4 * i + 3] = 255;
      }
      canvas.getContext("2d").putImageData(image, 0, 0);
    }

    words() {
      const { written, total, place } = this, { label } = this.drawn;
      if (written < total && this.selected === null) {
        return `${written} of ${total} codes are written. Continue, or choose the next code yourself.`;
      }
      const end = written === total ? `A ${label} in ${total} codes. ` : "";
      const code = this.draw.codes[place], told = percent(this.chance(place));
      const change = `The code at ${this.where(place)} is ${code}; it had a chance of ${told}.`;
      return `${end}${change} Take another one, and the picture goes on from there.`;
    }

    // A call of the package that draws the same codes.
    code() {
      const { label, temperature, topK, guidance, seed } = this.drawn;
      const last = Math.max(-1, ...this.edits.keys());
      const options = [`key=jax.random.key(${seed})`, `labels=["${label}"]`];
      if (temperature !== 1) options.push(`temperature=${temperature}`);
      if (topK !== this.prior.config.num_codes) options.push(`top_k=${topK}`);
      if (guidance !== 1) options.push(`guidance=${guidance}`);
      if (last >= 0) options.push(`prefix=[[${this.draw.codes.slice(0, last + 1).join(", ")}]]`);
      return `import jax\nimport minivim\n\ntokenizer = minivim.load("${this.decoder.name}")
prior = minivim.load("${this.prior.name}")
codes = minivim.sample(prior, ${options.join(", ")})\nimages = tokenizer.decode(codes)`;
    }
  }

  function script(name) {
    return new Promise((resolve, reject) => {
      const src = new URL(name, HERE);
      const element = make("script", { src });
      element.onload = resolve;
      element.onerror = () => reject(Error(`${name} is missing beside this script`));
      document.head.append(element);
    });
  }

  async function wake(box) {
    try {
      if (!minivim.weights) await script("shapes-decoder.js");
      if (!minivim.priorWeights) await script("shapes-prior.js");
      const prior = await minivim.Prior.load(minivim.priorWeights);
      new Generator(box, new minivim.Decoder(minivim.weights), prior, minivim.priorWeights);
    } catch (error) {
      const still = make("img", { alt: "Codes, written one by one, and the picture painted from them" });
      if (HERE) still.src = new URL("front.png", HERE);
      box.replaceChildren(still, make("p", { role: "alert" }, `No generator here: ${error.message}.`));
    }
  }

  addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll(".minivim-generator").forEach(wake));
})();
