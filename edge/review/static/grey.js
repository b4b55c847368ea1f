// SPDX-License-Identifier: Apache-2.0
// The film's grey values, and how they become a picture: first sampled at the size of the canvas (when the view
// changes), then windowed through a table (when the window changes, which so costs a millisecond or two).

const BACKGROUND = 0xff000000; // ABGR

export class Film {
  constructor(meta, values) {
    const { rows, columns, low, high, step, windows } = meta;
    Object.assign(this, { rows, columns, low, high, step, windows });
    this.top = meta.bytes === 2 ? 65535 : 255;
    this.levels = [{ values, rows: this.rows, columns: this.columns }];
    while (Math.min(this.levels.at(-1).rows, this.levels.at(-1).columns) > 256) this.levels.push(halved(this.levels.at(-1)));
  }

  // Grey values of a canvas of width x height whose pixel (x, y) shows the film at ((x - left) / scale, (y - top) / scale).
  sample(width, height, { scale, left, top }) {
    const level = this.levels[Math.min(this.levels.length - 1, Math.max(0, Math.round(-Math.log2(scale))))];
    const across = places(width, left, scale, this.columns, level.columns);
    const down = places(height, top, scale, this.rows, level.rows);
    const out = new Uint16Array(width * height);
    const { values, columns } = level;
    for (let y = down.from; y < down.to; ++y) {
      const above = down.first[y] * columns, below = down.second[y] * columns, v = down.share[y];
      for (let x = across.from; x < across.to; ++x) {
        const a = across.first[x], b = across.second[x], u = across.share[x];
        const upper = values[above + a] + (values[above + b] - values[above + a]) * u;
        const lower = values[below + a] + (values[below + b] - values[below + a]) * u;
        out[y * width + x] = upper + (lower - upper) * v + 0.5;
      }
    }
    return { out, width, height, across, down };
  }

  // Colours of all grey values; `window` is { black, white } or has a table of its own from low to high.
  colours({ black, white, table }, inverted) {
    const colours = new Uint32Array(this.top + 1);
    const first = (black - this.low) / this.step, span = Math.max((white - black) / this.step, 1e-6);
    const last = Math.max((this.high - this.low) / this.step, 1);
    for (let value = 0; value <= this.top; ++value) {
      let grey;
      if (table) grey = table[Math.min(table.length - 1, Math.round((value / last) * (table.length - 1)))];
      else grey = Math.min(255, Math.max(0, ((value - first) / span) * 255 + 0.5)) | 0;
      if (inverted) grey = 255 - grey;
      colours[value] = BACKGROUND | (grey << 16) | (grey << 8) | grey;
    }
    return colours;
  }
}

export function paint(context, { out, width, height, across, down }, colours) {
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer).fill(BACKGROUND);
  for (let y = down.from; y < down.to; ++y)
    for (let at = y * width + across.from, end = y * width + across.to; at < end; ++at) pixels[at] = colours[out[at]];
  context.putImageData(image, 0, 0);
}

function halved({ values, rows, columns }) {
  const r = rows >> 1, c = columns >> 1;
  const half = new values.constructor(r * c);
  for (let y = 0; y < r; ++y)
    for (let x = 0, at = 2 * y * columns; x < c; ++x, at += 2)
      half[y * c + x] = (values[at] + values[at + 1] + values[at + columns] + values[at + columns + 1] + 2) >> 2;
  return { values: half, rows: r, columns: c };
}

// For each canvas pixel along one side: the two samples it lies between, and how far; pixels off the film are left out.
function places(length, offset, scale, size, samples) {
  const first = new Int32Array(length), second = new Int32Array(length), share = new Float32Array(length);
  const from = Math.max(0, Math.ceil(offset)), to = Math.max(from, Math.min(length, Math.floor(offset + size * scale)));
  for (let i = from; i < to; ++i) {
    const at = Math.min(samples - 1, Math.max(0, ((i + 0.5 - offset) / scale / size) * samples - 0.5));
    first[i] = at;
    second[i] = Math.min(samples - 1, first[i] + 1);
    share[i] = at - first[i];
  }
  return { first, second, share, from, to };
}
