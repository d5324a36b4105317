// An editor of codes on top of decoder.js. Every `.minivim-editor` that
// minivim.show.TokenEditor left in a page comes to life; where something is missing its
// pictures stay, and a line says what is missing.
"use strict";

(() => {
  const HERE = document.currentScript.src;
  const COLUMNS = 16; // patches in a row of the picture of all patches, as in Python

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const name in attributes) element.setAttribute(name, attributes[name]);
    element.append(...children);
    return element;
  }

  // Buttons of which one is chosen, as radio buttons are: Tab leads to the chosen one,
  // the arrow keys choose its neighbours, also up and down. `choose` marks without
  // telling `onChoose`, which hears of the reader's choices only.
  function chooser(label, kind, buttons, onChoose) {
    const element = make("div", { role: "radiogroup", "aria-label": label, class: kind });
    element.append(...buttons);
    const choose = (chosen) =>
      buttons.forEach((button, i) => {
        button.setAttribute("aria-checked", i === chosen);
        button.tabIndex = i === chosen ? 0 : -1;
      });
    buttons.forEach((button, i) => {
      button.type = "button";
      button.setAttribute("role", "radio");
      button.addEventListener("click", () => onChoose(i));
    });
    element.addEventListener("keydown", (event) => {
      const top = buttons[0].offsetTop;
      const perRow = buttons.filter((button) => button.offsetTop === top).length;
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -perRow, ArrowDown: perRow };
      if (!(event.key in step)) return;
      event.preventDefault(); // the page does not scroll
      event.stopPropagation(); // nor turn over
      const next = buttons[buttons.indexOf(document.activeElement) + step[event.key]];
      if (!next) return;
      next.focus();
      next.click();
    });
    return { element, buttons, choose };
  }

  // Black or white, whichever is easier to read on a colour (WCAG's contrast).
  function ink(colour) {
    const [r, g, b] = [0, 2, 4].map((i) => {
      const value = parseInt(colour.slice(i, i + 2), 16) / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
  }

  // What generator.js builds with too.
  globalThis.minivim = globalThis.minivim || {};
  minivim.page = { make, chooser, ink };

  class Editor {
    constructor(box, decoder) {
      this.data = JSON.parse(box.dataset.editor);
      if (this.data.hash !== decoder.hash) {
        throw Error(`the codes are of ${this.data.name} with other weights`);
      }
      this.decoder = decoder;
      this.size = decoder.config.image_size;
      this.patch = decoder.config.patch_size;
      this.grid = this.size / this.patch;
      this.build(box);
      this.token = this.data.token;
      this.start(this.data.picture);
    }

    place(token) {
      return `Row ${Math.floor(token / this.grid) + 1}, column ${(token % this.grid) + 1}`;
    }

    canvas(attributes) {
      return make("canvas", { width: this.size, height: this.size, ...attributes });
    }

    build(box) {
      const { names, order, patches, colours } = this.data;
      this.colours = order.map((_, code) => colours.slice(6 * code, 6 * code + 6));
      this.pictures = chooser("the picture to start from", "pictures",
        names.map((name) => make("button", {}, this.canvas({ "aria-hidden": true }), name)),
        (i) => this.start(i));
      this.tokens = chooser("the tokens of the picture", "tokens",
        this.data.codes[0].map(() => make("button", {})), (i) => this.select(i));
      box.style.setProperty("--grid", this.grid);
      const rows = Math.ceil(order.length / COLUMNS);
      this.palette = chooser("the code of the chosen token", "palette",
        order.map((code) => {
          const button = make("button", { "aria-label": `code ${code}`, title: `code ${code}` });
          const x = (code % COLUMNS) / (COLUMNS - 1);
          const y = Math.floor(code / COLUMNS) / (rows - 1 || 1);
          button.style.background =
            `url(${patches}) ${100 * x}% ${100 * y}% / ${100 * COLUMNS}% ${100 * rows}%`;
          return button;
        }), (i) => this.exchange(order[i]));
      this.picture = this.canvas({ role: "img" });
      this.change = this.canvas({ role: "img" });
      this.frame = make("div", { class: "chosen", "aria-hidden": true });
      this.picture.addEventListener("click", ({ offsetX, offsetY }) => {
        const at = (offset) => Math.floor((offset / this.picture.clientWidth) * this.grid);
        this.select(at(offsetY) * this.grid + at(offsetX));
      });
      this.status = make("p", { role: "status" });
      const reset = make("button", { type: "button", class: "reset" }, "reset");
      reset.addEventListener("click", () => this.start(this.index));
      const figure = (content, words) =>
        make("figure", {}, make("div", { class: "panel" }, ...content),
          make("figcaption", {}, words));
      box.replaceChildren(
        make("div", { class: "bar" }, this.pictures.element, reset),
        make("div", { class: "panels" },
          figure([this.tokens.element], "1. Choose a token."),
          figure([this.picture, this.frame], "Decoded here, in this page."),
          figure([this.change], "The change, twice as bright.")),
        this.status,
        make("p", { class: "title" }, "2. Give it another code (the most used come first)."),
        this.palette.element);
      box.classList.add("alive");
      // One after another, so that the page does not wait for all of them.
      this.pictures.buttons.forEach((button, i) =>
        setTimeout(() =>
          this.paint(button.firstChild, this.decoder.decode(this.data.codes[i]))));
    }

    paint(canvas, pixels) {
      const image = new ImageData(this.size, this.size); // red, green, blue, opaque
      const channels = pixels.length / this.size ** 2;
      for (let i = 0; i < image.data.length; i++) {
        const at = (i >> 2) * channels + ((i & 3) % channels);
        image.data[i] = (i & 3) === 3 ? 255 : 255 * pixels[at];
      }
      canvas.getContext("2d").putImageData(image, 0, 0);
    }

    start(index) {
      this.index = index;
      this.original = this.data.codes[index];
      this.codes = [...this.original];
      this.before = this.after = this.decoder.decode(this.original);
      this.pictures.choose(index);
      this.show();
    }

    select(token) {
      this.token = token;
      this.show();
    }

    exchange(code) {
      this.codes[this.token] = code;
      this.after = this.decoder.decode(this.codes);
      this.show();
    }

    // Everything that a reader sees of the state.
    show() {
      const change = this.after.map((value, i) => Math.abs(value - this.before[i]));
      this.paint(this.picture, this.after);
      this.paint(this.change, change.map((value) => Math.min(1, 2 * value)));
      const name = this.data.names[this.index];
      this.picture.setAttribute("aria-label", `${name}, decoded from the codes`);
      this.change.setAttribute("aria-label", "where the picture has changed");
      this.tokens.choose(this.token);
      this.tokens.buttons.forEach((button, i) => {
        const code = this.codes[i], colour = this.colours[code];
        button.textContent = code;
        button.style.background = `#${colour}`;
        button.style.color = ink(colour);
        button.setAttribute("aria-label", `${this.place(i)}: code ${code}`);
        button.classList.toggle("changed", code !== this.original[i]);
      });
      this.palette.choose(this.data.order.indexOf(this.codes[this.token]));
      this.frame.style.left = `${(100 * (this.token % this.grid)) / this.grid}%`;
      this.frame.style.top = `${(100 * Math.floor(this.token / this.grid)) / this.grid}%`;
      this.status.textContent = this.words(change);
    }

    words(change) {
      const [was, is] = [this.original[this.token], this.codes[this.token]];
      const chosen = `${this.place(this.token)}: code ${was}`;
      const head = `${chosen}${was === is ? "" : ` became ${is}`}.`;
      const replaced = this.codes.filter((code, i) => code !== this.original[i]).length;
      if (!replaced) return `${head} No code is replaced yet.`;
      const [inside, all] = this.shares(change);
      const share = Math.round((100 * inside) / (all || 1));
      return replaced === 1
        ? `${head} One code replaced: ${share} % of the change lies in its own patch.`
        : `${head} ${replaced} codes replaced: ${share} % of the change lies in their patches.`;
    }

    // The squared change in the patches of the replaced codes, and in all.
    shares(change) {
      const channels = change.length / this.size ** 2;
      let inside = 0, all = 0;
      change.forEach((value, i) => {
        const pixel = Math.floor(i / channels);
        const row = Math.floor(pixel / this.size / this.patch);
        const token = row * this.grid + Math.floor((pixel % this.size) / this.patch);
        all += value ** 2;
        if (this.codes[token] !== this.original[token]) inside += value ** 2;
      });
      return [inside, all];
    }
  }

  addEventListener("DOMContentLoaded", () => {
    const boxes = [...document.querySelectorAll(".minivim-editor")];
    if (!boxes.length) return;
    const fail = (box, words) =>
      box.append(make("p", { role: "alert" }, `No editor here: ${words}.`));
    const script = make("script", { src: new URL("shapes-decoder.js", HERE) });
    script.onerror = () =>
      boxes.forEach((box) => fail(box, "shapes-decoder.js is missing beside this script"));
    script.onload = () =>
      boxes.forEach((box) => {
        try {
          new Editor(box, new minivim.Decoder(minivim.weights));
        } catch (error) {
          fail(box, error.message);
        }
      });
    document.head.append(script);
  });
})();
