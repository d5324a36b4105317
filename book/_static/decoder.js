// The decoder of a tokenizer, in the page: codes in, picture out, nothing to install.
//
// The same forward pass as minivim/tokenizer/vit.py and minivim/transformer.py, for one
// picture. Numbers are Float32Arrays in row order; a kernel is [inputs, outputs], and
// the parameters of all blocks of a stack lie in one array each, block by block.
// tests/test_page_decoder.py runs this file and compares it with JAX.
"use strict";

globalThis.minivim = globalThis.minivim || {};

(() => {
  // What this file can compute. `ANY`: read below, or of no effect on a decoder.
  const ANY = undefined;
  const KNOWN = {
    image_size: ANY, patch_size: ANY, channels: ANY,
    tanh: "head", positions: "learnt", output: "sigmoid", pixel_map: "clamp",
    "quantizer.num_codes": ANY, "quantizer.code_dim": ANY,
    "quantizer.l2_normalise": true, "quantizer.factorised": true,
    "quantizer.straight_through": ANY, "quantizer.reduction": ANY,
    "quantizer.beta": ANY, "quantizer.codebook": ANY, "quantizer.ema_decay": ANY,
    "quantizer.revive_after": ANY,
    "decoder.blocks": ANY, "decoder.width": ANY, "decoder.heads": ANY,
    "decoder.hidden": ANY, "decoder.norm_eps": ANY, "decoder.activation": "gelu",
    "decoder.precision": "float32", "decoder.dropout": ANY, "decoder.unroll": ANY,
    "decoder.remat": ANY,
  };

  function check(config, known, file) {
    const given = {};
    for (const [name, value] of Object.entries(config)) {
      if (typeof value !== "object") given[name] = value;
      else for (const key in value) given[`${name}.${key}`] = value[key];
    }
    for (const name in given) {
      if (!(name in known)) throw Error(`${file} does not know the setting ${name}`);
    }
    for (const name in known) {
      if (!(name in given)) throw Error(`${file} needs the setting ${name}`);
      if (known[name] !== ANY && known[name] !== given[name]) {
        throw Error(`${file} computes ${name}=${known[name]}, not ${given[name]}`);
      }
    }
  }

  // 16-bit floats by their bits: sign, 5 bits of exponent, 10 of fraction.
  function float16(count, bitsOf) {
    const values = new Float32Array(count);
    const powers = Array.from({ length: 32 }, (_, exponent) => 2 ** (exponent - 15));
    for (let i = 0; i < count; i++) {
      const bits = bitsOf(i);
      const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31;
      const fraction = (bits & 1023) / 1024;
      values[i] = sign * (exponent
        ? powers[exponent] * (1 + fraction)
        : 2 ** -14 * fraction);
    }
    return values;
  }

  // From base64, the lower byte first.
  function unpack(base64) {
    const bytes = atob(base64);
    return float16(bytes.length / 2, (i) =>
      bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8));
  }

  // y = x W + b for every row of x. Two rows and four columns at once: nearly all the
  // time goes here, and a number that was fetched is used more than once.
  function linear(x, { kernel, bias }) {
    const outputs = bias.length, inputs = kernel.length / outputs;
    if (outputs % 4) throw Error(`decoder.js: a width of ${outputs} is no multiple of 4`);
    const y = new Float32Array((x.length / inputs) * outputs);
    for (let j = 0; j < outputs; j += 4) {
      for (let n = 0, o = j; n < x.length; n += 2 * inputs, o += 2 * outputs) {
        let a0 = bias[j], a1 = bias[j + 1], a2 = bias[j + 2], a3 = bias[j + 3];
        let b0 = a0, b1 = a1, b2 = a2, b3 = a3;
        for (let i = 0, k = j; i < inputs; i++, k += outputs) {
          const k0 = kernel[k], k1 = kernel[k + 1], k2 = kernel[k + 2], k3 = kernel[k + 3];
          const a = x[n + i], b = x[n + i + inputs];
          a0 += a * k0; a1 += a * k1; a2 += a * k2; a3 += a * k3;
          b0 += b * k0; b1 += b * k1; b2 += b * k2; b3 += b * k3;
        }
        y[o] = a0; y[o + 1] = a1; y[o + 2] = a2; y[o + 3] = a3;
        const q = o + outputs; // behind the last row of an odd number: not stored
        y[q] = b0; y[q + 1] = b1; y[q + 2] = b2; y[q + 3] = b3;
      }
    }
    return y;
  }

  // (x - mean) / sqrt(variance + eps) * scale + bias for every row.
  function layerNorm(x, { scale, bias }, eps) {
    const width = scale.length, y = new Float32Array(x.length);
    for (let start = 0; start < x.length; start += width) {
      let mean = 0, variance = 0;
      for (let j = 0; j < width; j++) mean += x[start + j] / width;
      for (let j = 0; j < width; j++) variance += (x[start + j] - mean) ** 2 / width;
      const factor = 1 / Math.sqrt(variance + eps);
      for (let j = 0; j < width; j++) {
        y[start + j] = (x[start + j] - mean) * factor * scale[j] + bias[j];
      }
    }
    return y;
  }

  // softmax(q k^T / sqrt(d)) v; a row holds q, k and v of all heads, one after another.
  function attention(qkv, width, heads) {
    const tokens = qkv.length / (3 * width), d = width / heads;
    const mixed = new Float32Array(tokens * width), weights = new Float32Array(tokens);
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < tokens; i++) {
        const q = i * 3 * width + h * d;
        for (let t = 0; t < tokens; t++) {
          const k = t * 3 * width + width + h * d;
          let score = 0;
          for (let j = 0; j < d; j++) score += qkv[q + j] * qkv[k + j];
          weights[t] = score / Math.sqrt(d);
        }
        const largest = Math.max(...weights);
        let total = 0;
        for (let t = 0; t < tokens; t++) {
          total += weights[t] = Math.exp(weights[t] - largest);
        }
        for (let t = 0; t < tokens; t++) {
          const v = t * 3 * width + 2 * width + h * d, share = weights[t] / total;
          for (let j = 0; j < d; j++) mixed[i * width + h * d + j] += share * qkv[v + j];
        }
      }
    }
    return mixed;
  }

  // The approximation by tanh, as jax.nn.gelu(approximate=True).
  const gelu = (x) =>
    0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const add = (x, y) => x.map((value, i) => value + y[i]);

  // What prior.js computes with too.
  minivim.parts = { check, float16, layerNorm, gelu, ANY };

  minivim.Decoder = class Decoder {
    // `data` is what book/page_decoder.py writes: name, hash, config and weights.
    constructor(data) {
      check(data.config, KNOWN, "decoder.js");
      this.config = data.config;
      this.name = data.name;
      this.hash = data.hash;
      this.values = unpack(data.weights);
      this.tensors = data.tensors; // name -> {start, shape}
    }

    tensor(name) {
      const { start, shape } = this.tensors[name];
      return this.values.subarray(start, start + shape.reduce((a, b) => a * b, 1));
    }

    // The parameters of a layer; with `block`, of that block's layer in the stack.
    layer(name, block) {
      const found = {};
      for (const part of ["kernel", "scale", "bias"]) {
        if (!(`${name}.${part}` in this.tensors)) continue;
        const all = this.tensor(`${name}.${part}`);
        const size = all.length / this.config.decoder.blocks;
        found[part] =
          block === undefined ? all : all.subarray(block * size, (block + 1) * size);
      }
      return found;
    }

    // The vectors of the codes, scaled to length 1, mapped up to the decoder's width.
    embed(codes) {
      const d = this.config.quantizer.code_dim;
      const codebook = this.tensor("quantizer.codebook");
      const z = new Float32Array(codes.length * d);
      codes.forEach((code, i) => {
        const vector = codebook.subarray(code * d, (code + 1) * d);
        const length = Math.max(Math.hypot(...vector), 1e-12);
        vector.forEach((value, j) => (z[i * d + j] = value / length));
      });
      return linear(z, this.layer("quantizer.up"));
    }

    block(x, b) {
      const { width, heads, norm_eps } = this.config.decoder;
      const at = (name) => this.layer(`decoder.stack.blocks.${name}`, b);
      const qkv = linear(layerNorm(x, at("attention_norm"), norm_eps), at("qkv"));
      x = add(x, linear(attention(qkv, width, heads), at("attention_out")));
      const hidden = linear(layerNorm(x, at("ffn_norm"), norm_eps), at("ffn_up"));
      return add(x, linear(hidden.map(gelu), at("ffn_down")));
    }

    // Pixels in [0, 1], row by row, of the codes of one picture in raster order.
    decode(codes) {
      const { image_size: size, patch_size: p, channels, decoder } = this.config;
      let x = add(this.embed(codes), this.tensor("decoder.positions.table"));
      for (let b = 0; b < decoder.blocks; b++) x = this.block(x, b);
      x = layerNorm(x, this.layer("decoder.stack.norm"), decoder.norm_eps);
      x = linear(x, this.layer("decoder.head.hidden")).map(Math.tanh);
      x = linear(x, this.layer("decoder.head.out"));
      // Row i of x is patch i: p rows of p pixels. Every pixel to its place.
      const grid = size / p, line = p * channels;
      const pixels = new Float32Array(size * size * channels);
      for (let i = 0; i < x.length; i++) {
        const patch = Math.floor(i / (p * line)), inside = i % (p * line);
        const row = Math.floor(patch / grid) * p + Math.floor(inside / line);
        const start = (row * size + (patch % grid) * p) * channels;
        pixels[start + (inside % line)] = sigmoid(x[i]);
      }
      return pixels;
    }
  };
})();
