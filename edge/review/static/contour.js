// SPDX-License-Identifier: Apache-2.0
// Small fields of numbers: smoothing, enlarging, and the lines at a level.

// Field: { rows, columns, values: Float32Array }.
export function blurred(field, sigma) {
  const radius = Math.ceil(3 * sigma);
  const kernel = Array.from({ length: 2 * radius + 1 }, (_, i) => Math.exp(-((i - radius) ** 2) / (2 * sigma * sigma)));
  const sum = kernel.reduce((a, b) => a + b);
  const pass = (get, length, others, put) => {
    for (let o = 0; o < others; ++o)
      for (let i = 0; i < length; ++i) {
        let total = 0;
        for (let k = -radius; k <= radius; ++k)
          total += kernel[k + radius] * get(o, Math.min(length - 1, Math.max(0, i + k)));
        put(o, i, total / sum);
      }
  };
  const { rows, columns } = field;
  const half = new Float32Array(rows * columns), full = new Float32Array(rows * columns);
  pass((y, x) => field.values[y * columns + x], columns, rows, (y, x, v) => (half[y * columns + x] = v));
  pass((x, y) => half[y * columns + x], rows, columns, (x, y, v) => (full[y * columns + x] = v));
  return { rows, columns, values: full };
}

// `factor` times as many samples each way (Catmull-Rom), never below 0.
export function enlarged({ rows, columns, values }, factor) {
  const weights = Array.from({ length: factor }, (_, i) => {
    const t = (i + 0.5) / factor - 0.5, from = Math.floor(t), f = t - from;
    return { from: from - 1, w: [((2 - f) * f - 1) * f / 2, ((3 * f - 5) * f * f + 2) / 2, ((4 - 3 * f) * f + 1) * f / 2, ((f - 1) * f * f) / 2] };
  });
  const stretch = (get, length, others) => {
    const out = new Float32Array(length * factor * others);
    for (let o = 0; o < others; ++o)
      for (let i = 0; i < length * factor; ++i) {
        const { from, w } = weights[i % factor], base = Math.floor(i / factor) + from;
        let total = 0;
        for (let k = 0; k < 4; ++k) total += w[k] * get(o, Math.min(length - 1, Math.max(0, base + k)));
        out[o * length * factor + i] = total;
      }
    return out;
  };
  const wide = stretch((y, x) => values[y * columns + x], columns, rows);
  const tall = stretch((x, y) => wide[y * columns * factor + x], rows, columns * factor);
  const out = { rows: rows * factor, columns: columns * factor, values: new Float32Array(rows * columns * factor * factor) };
  for (let y = 0; y < out.rows; ++y)
    for (let x = 0; x < out.columns; ++x) out.values[y * out.columns + x] = Math.max(0, tall[x * out.rows + y]);
  return out;
}

// The value above which `share` of the field lies.
export function levelOf({ values }, share) {
  const sorted = Float32Array.from(values).sort().reverse();
  const wanted = share * sorted.reduce((a, b) => a + b, 0);
  let sum = 0;
  for (const value of sorted) if ((sum += value) >= wanted) return value;
  return 0;
}

// Lines around what is at or above `level`: lists of [x, y], each from 0 to 1. Marching squares over the field with a
// border of low values, so that every line is closed.
export function contours(field, level) {
  const { rows, columns, values } = field;
  const at = (y, x) => (y < 0 || x < 0 || y >= rows || x >= columns ? level - 1e-9 - Math.abs(level) : values[y * columns + x]);
  const next = new Map(); // from an edge of a cell to the next one
  const points = new Map();
  const cross = (y, x, down) => {
    const key = `${y},${x},${down}`;
    if (!points.has(key)) {
      const a = at(y, x), b = down ? at(y + 1, x) : at(y, x + 1), t = Math.min(1, Math.max(0, (level - a) / (b - a)));
      const px = x + (down ? 0 : t) + 0.5, py = y + (down ? t : 0) + 0.5;
      points.set(key, [Math.min(1, Math.max(0, px / columns)), Math.min(1, Math.max(0, py / rows))]);
    }
    return key;
  };
  for (let y = -1; y < rows; ++y)
    for (let x = -1; x < columns; ++x) {
      const inside = [at(y, x), at(y, x + 1), at(y + 1, x + 1), at(y + 1, x)].map((v) => v >= level);
      const edges = [[y, x, 0], [y, x + 1, 1], [y + 1, x, 0], [y, x, 1]]; // top, right, bottom, left
      const starts = [], ends = [];
      for (let e = 0; e < 4; ++e) {
        const here = inside[e], there = inside[(e + 1) % 4];
        if (here && !there) starts.push(e);
        if (!here && there) ends.push(e);
      }
      starts.forEach((e, i) => {
        const end = ends.length === 1 ? ends[0] : ends.find((o) => o === (e + 3) % 4) ?? ends[i];
        next.set(cross(...edges[e]), cross(...edges[end]));
      });
    }
  const lines = [];
  while (next.size) {
    const line = [];
    let key = next.keys().next().value;
    while (next.has(key)) {
      line.push(points.get(key));
      const following = next.get(key);
      next.delete(key);
      key = following;
    }
    lines.push(line);
  }
  return lines;
}
