// SPDX-License-Identifier: Apache-2.0
// What is drawn over the film: the outline of lungs and heart, and where the model looked while it wrote a sentence.

import { blurred, contours, enlarged, levelOf } from "./contour.js";

const CONTOUR_MASS = 0.35; // a contour encloses the patches that hold this share of a sentence's attention
const TINT = 0.42;

// Okabe and Ito's colours that stand out on a grey film, told apart with any colour vision; as in the overlay picture.
const COLOURS = [
  [230, 159, 0], [86, 180, 233], [0, 190, 140], [240, 228, 66], [220, 140, 190], [235, 235, 235], [226, 100, 40], [150, 160, 255],
];

export const colour = (index) => COLOURS[index % COLOURS.length];
export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

// { size: [rows, columns], bits: base64 } -> closed lines, each a list of [x, y] from 0 to 1.
export function outline({ size: [rows, columns], bits }) {
  const bytes = Uint8Array.from(atob(bits), (c) => c.charCodeAt(0));
  let field = { rows, columns, values: Float32Array.from({ length: rows * columns }, (_, i) => (bytes[i >> 3] >> (7 - (i & 7))) & 1) };
  field = blurred(field, 0.7);
  if (columns <= 64) field = enlarged(field, 3);
  return contours(field, 0.5).filter((line) => line.length > 12);
}

// The evidence of a sentence, ready to be drawn: a tint, lines, and the place of its number.
export class Look {
  constructor(evidence, index) {
    const [rows, columns] = evidence.grid;
    const small = blurred({ rows, columns, values: Float32Array.from(evidence.heat.flat()) }, 0.9);
    const field = enlarged(small, Math.max(2, Math.round(192 / columns)));
    const level = levelOf(field, CONTOUR_MASS), most = field.values.reduce((a, b) => Math.max(a, b), 0);
    this.colour = colour(index);
    this.number = index + 1;
    this.peak = [(evidence.peak[1] + 0.5) / columns, (evidence.peak[0] + 0.5) / rows];
    this.lines = large(contours(field, level).filter((line) => line.length > 16));
    this.tint = tinted(field, level, most, this.colour);
  }
}

// Lines that enclose little beside the largest are left out: the tint shows what is there, and a ring without a number
// looks like a mark of its own.
function large(lines) {
  const area = (line) => Math.abs(line.reduce((sum, [x, y], i) => {
    const [u, v] = line[(i + 1) % line.length];
    return sum + (x * v - u * y) / 2;
  }, 0));
  const most = Math.max(0, ...lines.map(area));
  return lines.filter((line) => area(line) >= 0.06 * most);
}

function tinted({ rows, columns, values }, low, high, [r, g, b]) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  values.forEach((value, i) => {
    const alpha = Math.min(1, Math.max(0, (value - low) / Math.max(high - low, 1e-12))) * TINT;
    image.data.set([r, g, b, Math.round(alpha * 255)], 4 * i);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

// `place`: where the film lies on the canvas, { left, top, width, height }, in canvas pixels; `unit`: of a CSS pixel.
export function draw(context, place, unit, { mask, look }) {
  const { left, top, width, height } = place;
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  const stroke = (lines, style, line, dash = []) => {
    context.beginPath();
    for (const points of lines) {
      points.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](left + x * width, top + y * height));
      context.closePath();
    }
    Object.assign(context, { strokeStyle: style, lineWidth: line * unit, lineJoin: "round" });
    context.setLineDash(dash.map((d) => d * unit));
    context.stroke();
  };
  if (look) context.drawImage(look.tint, left, top, width, height);
  if (mask) stroke(mask, "rgb(240 242 245 / 0.85)", 1.5, [7, 5]);
  if (!look) return;
  stroke(look.lines, "rgb(0 0 0 / 0.8)", 4);
  stroke(look.lines, css(look.colour), 2);
  const x = left + look.peak[0] * width, y = top + look.peak[1] * height;
  context.setLineDash([]);
  context.beginPath();
  context.arc(x, y, 12 * unit, 0, 2 * Math.PI);
  Object.assign(context, { fillStyle: css(look.colour), strokeStyle: "#000", lineWidth: 2 * unit });
  context.fill();
  context.stroke();
  Object.assign(context, { fillStyle: "#000", font: `700 ${13 * unit}px sans-serif`, textAlign: "center", textBaseline: "middle" });
  context.fillText(String(look.number), x, y + unit / 2);
}
