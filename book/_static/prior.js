// The prior in the page: codes one after another, as minivim.sample draws them.
//
// The same as minivim/prior/model.py, `step`, and minivim/prior/sampling.py, `generate`,
// for one picture. `minivim.gumbel(seed)` is the noise of jax.random.key(seed), so that a
// seed gives the same codes here and there. tests/test_page_prior.py and
// tests/browser/test_generator.py compare both with JAX.
"use strict";

globalThis.minivim = globalThis.minivim || {};

(() => {
  const { check, float16, layerNorm, gelu, ANY } = minivim.parts;
  const KNOWN = {
    num_codes: ANY, grid: ANY, num_classes: ANY,
    "stack.blocks": ANY, "stack.width": ANY, "stack.heads": ANY, "stack.hidden": ANY,
    "stack.norm_eps": ANY, "stack.activation": "gelu", "stack.precision": "float32",
    "stack.dropout": ANY, "stack.unroll": ANY, "stack.remat": ANY,
  };
  const LAYERS = ["attention_norm", "qkv", "attention_out", "ffn_norm", "ffn_up", "ffn_down"];
  const TINY = 1e-30; // as in sampling.py

  // Base64 of zlib's bytes, in which the low bytes of all 16-bit floats come first.
  async function unpack(base64) {
    const text = atob(base64), bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const half = planes.length / 2;
    return float16(half, (i) => planes[i] | (planes[half + i] << 8));
  }

  // y = x W + b for one row. Four rows of the kernel at once, each read in order.
  function affine(x, { kernel, bias }) {
    const outputs = bias.length, y = Float32Array.from(bias);
    if (x.length % 4) throw Error(`prior.js: a width of ${x.length} is no multiple of 4`);
    for (let i = 0, k = 0; i < x.length; i += 4, k += 4 * outputs) {
      const a = x[i], b = x[i + 1], c = x[i + 2], d = x[i + 3];
      const k1 = k + outputs, k2 = k1 + outputs, k3 = k2 + outputs;
      for (let j = 0; j < outputs; j++) {
        y[j] += a * kernel[k + j] + b * kernel[k1 + j] + c * kernel[k2 + j] + d * kernel[k3 + j];
      }
    }
    return y;
  }

  function addTo(x, y) {
    for (let j = 0; j < x.length; j++) x[j] += y[j];
  }

  minivim.Prior = class Prior {
    // `data` is what book/page_decoder.py writes; `values` are its weights, unpacked.
    constructor(data, values) {
      check(data.config, KNOWN, "prior.js");
      this.config = data.config;
      this.name = data.name;
      this.hash = data.hash;
      this.classNames = data.class_names;
      this.tokens = data.config.grid ** 2;
      const tensor = (name) => {
        const { start, shape } = data.tensors[name];
        return values.subarray(start, start + shape.reduce((a, b) => a * b, 1));
      };
      const { blocks } = data.config.stack;
      // The parameters of a layer; with `block`, of that block's layer in the stack.
      const layer = (name, block) => {
        const found = {};
        for (const part of ["kernel", "scale", "bias"]) {
          if (!(`${name}.${part}` in data.tensors)) continue;
          const all = tensor(`${name}.${part}`), size = all.length / blocks;
          found[part] =
            block === undefined ? all : all.subarray(block * size, (block + 1) * size);
        }
        return found;
      };
      for (const name of ["codes", "classes", "rows", "columns"]) this[name] = tensor(name);
      this.blocks = Array.from({ length: blocks }, (_, b) =>
        Object.fromEntries(LAYERS.map((name) => [name, layer(`stack.blocks.${name}`, b)])));
      this.norm = layer("stack.norm");
      this.head = layer("head");
    }

    static async load(data) {
      return new Prior(data, await unpack(data.packed));
    }

    row(table, i) {
      const { width } = this.config.stack;
      return table.subarray(i * width, (i + 1) * width);
    }

    // The class token, which has no position; the last row of the table is the null class.
    start(label) {
      return this.row(this.classes, label).slice();
    }

    // Token plus the position's row plus its column.
    embed(code, position) {
      const { grid } = this.config, x = this.row(this.codes, code).slice();
      addTo(x, this.row(this.rows, Math.floor(position / grid)));
      addTo(x, this.row(this.columns, position % grid));
      return x;
    }

    // Keys and values of every token, [tokens, width] for each block.
    emptyCache() {
      const empty = () => new Float32Array(this.tokens * this.config.stack.width);
      return this.blocks.map(() => ({ keys: empty(), values: empty() }));
    }

    // softmax(q k^T / sqrt(d)) v over the tokens up to `at`. What is left in `weights`,
    // [heads, at + 1], are the attention's.
    attention(q, { keys, values }, at, weights) {
      const { width, heads } = this.config.stack, d = width / heads, count = at + 1;
      const mixed = new Float32Array(width);
      for (let h = 0; h < heads; h++) {
        const mine = weights.subarray(h * count, (h + 1) * count), first = h * d;
        let largest = -Infinity, total = 0;
        for (let t = 0; t < count; t++) {
          let score = 0;
          for (let j = first; j < first + d; j++) score += q[j] * keys[t * width + j];
          largest = Math.max(largest, (mine[t] = score / Math.sqrt(d)));
        }
        for (let t = 0; t < count; t++) total += mine[t] = Math.exp(mine[t] - largest);
        for (let t = 0; t < count; t++) {
          const share = (mine[t] /= total);
          for (let j = first; j < first + d; j++) mixed[j] += share * values[t * width + j];
        }
      }
      return mixed;
    }

    // Logits of the code `at` a position from its input, and the last block's attention
    // to the class token and the codes before it, [heads, at + 1].
    step(x, cache, at) {
      const { width, heads, norm_eps } = this.config.stack;
      const weights = new Float32Array(heads * (at + 1));
      this.blocks.forEach((block, b) => {
        const qkv = affine(layerNorm(x, block.attention_norm, norm_eps), block.qkv);
        cache[b].keys.set(qkv.subarray(width, 2 * width), at * width);
        cache[b].values.set(qkv.subarray(2 * width), at * width);
        addTo(x, affine(this.attention(qkv, cache[b], at, weights), block.attention_out));
        const hidden = affine(layerNorm(x, block.ffn_norm, norm_eps), block.ffn_up);
        for (let j = 0; j < hidden.length; j++) hidden[j] = gelu(hidden[j]);
        addTo(x, affine(hidden, block.ffn_down));
      });
      return { logits: affine(layerNorm(x, this.norm, norm_eps), this.head), weights };
    }
  };

  // One picture, code by code. Guidance, temperature and top-k act in this order, as in
  // `sample`; `noise` is [tokens, codes], and the largest of logits + noise is drawn.
  minivim.Draw = class Draw {
    constructor(prior, { label, temperature = 1, topK, guidance = 1, noise }) {
      Object.assign(this, { prior, temperature, topK, guidance, noise });
      const labels = guidance === 1 ? [label] : [label, prior.config.num_classes];
      this.streams = labels.map((label) => ({ label, cache: prior.emptyCache() }));
      this.codes = []; // drawn or given so far
      this.seen = []; // for each position {logits, filtered, probabilities, attention}
    }

    // What the prior says of a position that is written, or of the next one.
    at(position) {
      while (this.seen.length <= position) this.seen.push(this.look(this.seen.length));
      return this.seen[position];
    }

    look(at) {
      const found = this.streams.map(({ label, cache }) => {
        const x = at ? this.prior.embed(this.codes[at - 1], at - 1) : this.prior.start(label);
        return this.prior.step(x, cache, at);
      });
      const [{ logits: wanted, weights }, none] = found;
      const logits = none
        ? none.logits.map((value, k) => value + this.guidance * (wanted[k] - value))
        : wanted;
      const filtered = this.filter(logits);
      return { logits, filtered, probabilities: softmax(filtered), attention: weights };
    }

    // Temperature, then top-k: the k largest and those equal to the smallest of them.
    filter(logits) {
      const divisor = Math.max(Math.fround(this.temperature), TINY);
      const scaled = logits.map((value) => value / divisor);
      const k = this.topK || scaled.length;
      const smallest = scaled.slice().sort()[scaled.length - k];
      return scaled.map((value) => (value >= smallest ? value : -Infinity));
    }

    // The code that the noise chooses at a position.
    drawn(position) {
      const { filtered } = this.at(position), start = position * filtered.length;
      let best = 0;
      filtered.forEach((value, k) => {
        if (value + this.noise[start + k] > filtered[best] + this.noise[start + best]) best = k;
      });
      return best;
    }

    // Write the next code, by default the one that is drawn.
    write(code) {
      const position = this.codes.length;
      this.at(position);
      this.codes.push(code ?? this.drawn(position));
      return this.codes[position];
    }

    // Take back the codes from a position on; what was said of that position stays true.
    back(position) {
      this.codes.length = position;
      this.seen.length = Math.min(this.seen.length, position + 1);
    }

    finish() {
      while (this.codes.length < this.prior.tokens) this.write();
      return this.codes;
    }
  };

  function softmax(logits) {
    const largest = logits.reduce((a, b) => Math.max(a, b));
    const shares = logits.map((value) => Math.exp(value - largest));
    const total = shares.reduce((a, b) => a + b);
    return shares.map((value) => value / total);
  }

  // Threefry 2x32 (Salmon et al., 2011), 20 rounds: JAX's default generator.
  function threefry(key0, key1, x0, x1) {
    const keys = [key0, key1, key0 ^ key1 ^ 0x1bd11bda];
    const turns = [[13, 15, 26, 6], [17, 29, 16, 24]];
    x0 = (x0 + key0) | 0;
    x1 = (x1 + key1) | 0;
    for (let group = 0; group < 5; group++) {
      for (const turn of turns[group % 2]) {
        x0 = (x0 + x1) | 0;
        x1 = ((x1 << turn) | (x1 >>> (32 - turn))) ^ x0;
      }
      x0 = (x0 + keys[(group + 1) % 3]) | 0;
      x1 = (x1 + keys[(group + 2) % 3] + group + 1) | 0;
    }
    return [x0, x1];
  }

  // jax.random.gumbel(keys[i], (1, codes)) for keys = split(key(seed), tokens).
  minivim.gumbel = (seed, tokens, codes) => {
    const noise = new Float32Array(tokens * codes);
    for (let i = 0; i < tokens; i++) {
      const [key0, key1] = threefry(0, seed, 0, i);
      for (let k = 0; k < codes; k++) {
        const [high, low] = threefry(key0, key1, 0, k);
        const uniform = ((high ^ low) >>> 9) / 2 ** 23 || 2 ** -126; // never 0
        const log = Math.fround(Math.log(uniform));
        noise[i * codes + k] = -Math.fround(Math.log(-log));
      }
    }
    return noise;
  };
})();
