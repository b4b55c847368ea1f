// SPDX-License-Identifier: Apache-2.0
// The film on the screen: window and level, zoom and pan, with pointer and keys.

import { paint } from "./grey.js";
import { draw } from "./marks.js";

const LARGEST = 16; // canvas pixels per film pixel

export class View {
  constructor(grey, marks, onWindow) {
    this.grey = grey;
    this.contexts = { grey: grey.getContext("2d", { alpha: false }), marks: marks.getContext("2d") };
    this.onWindow = onWindow;
    this.film = null;
    this.drawn = { mask: null, look: null };
    this.pending = new Set();
    new ResizeObserver(() => this.resized()).observe(grey);
    this.listen();
  }

  show(film) {
    Object.assign(this, { film, window: { ...film.windows[0] }, inverted: false, drawn: { mask: null, look: null } });
    this.resized();
    this.changed("table");
    this.flush(); // not a frame later: the film is what everybody waits for
  }

  mark(change) {
    Object.assign(this.drawn, change);
    this.changed("marks");
  }

  setWindow(window) {
    this.window = { ...window };
    this.changed("table");
  }

  invert() {
    this.inverted = !this.inverted;
    this.changed("table");
    return this.inverted;
  }

  resized() {
    this.unit = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(this.grey.clientWidth * this.unit));
    const height = Math.max(1, Math.round(this.grey.clientHeight * this.unit));
    for (const { canvas } of Object.values(this.contexts))
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    if (this.film) this.fit();
  }

  fit() {
    const { width, height } = this.grey;
    const scale = Math.min(width / this.film.columns, height / this.film.rows);
    this.smallest = scale * 0.5;
    this.at = { scale, left: (width - this.film.columns * scale) / 2, top: (height - this.film.rows * scale) / 2 };
    this.changed("place");
  }

  // Zoom so that what is under (x, y), in CSS pixels, stays there; without a place: the middle.
  zoom(factor, x = this.grey.clientWidth / 2, y = this.grey.clientHeight / 2) {
    const scale = Math.min(LARGEST, Math.max(this.smallest, this.at.scale * factor)), by = scale / this.at.scale;
    const [cx, cy] = [x * this.unit, y * this.unit];
    this.at = { scale, left: cx - (cx - this.at.left) * by, top: cy - (cy - this.at.top) * by };
    this.changed("place");
  }

  pan(dx, dy) {
    const { scale } = this.at, [w, h] = [this.film.columns * scale, this.film.rows * scale];
    const within = (value, size, room) => Math.min(room - 40, Math.max(40 - size, value)); // some of it stays in sight
    this.at = {
      scale,
      left: within(this.at.left + dx * this.unit, w, this.grey.width),
      top: within(this.at.top + dy * this.unit, h, this.grey.height),
    };
    this.changed("place");
  }

  // Down is darker, right is wider, in shares of what the film spans.
  level(dx, dy) {
    const span = this.film.high - this.film.low || 1;
    const least = Math.max(this.film.step, span / 500);
    const width = Math.max(least, this.window.white - this.window.black + (dx / 500) * span);
    const middle = (this.window.white + this.window.black) / 2 + (dy / 500) * span;
    this.setWindow({ black: middle - width / 2, white: middle + width / 2 });
  }

  changed(what) {
    this.pending.add(what);
    this.frame ??= requestAnimationFrame(() => this.flush());
  }

  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = undefined;
    if (!this.film) return;
    const what = this.pending;
    this.pending = new Set();
    if (what.has("table")) {
      this.colours = this.film.colours(this.window, this.inverted);
      this.onWindow(this.window);
    }
    if (what.has("place")) this.sampled = this.film.sample(this.grey.width, this.grey.height, this.at);
    if (what.has("table") || what.has("place")) paint(this.contexts.grey, this.sampled, this.colours);
    const { scale, left, top } = this.at;
    if (what.has("marks") || what.has("place"))
      draw(this.contexts.marks, { left, top, width: this.film.columns * scale, height: this.film.rows * scale }, this.unit, this.drawn);
  }

  listen() {
    const { grey } = this;
    let from = null;
    grey.addEventListener("pointerdown", (event) => {
      if (!this.film || event.button > 2) return;
      grey.setPointerCapture(event.pointerId);
      from = { x: event.clientX, y: event.clientY, pan: event.button !== 0 || event.shiftKey };
      grey.classList.toggle("panning", from.pan);
    });
    grey.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
      Object.assign(from, { x: event.clientX, y: event.clientY });
      if (from.pan) this.pan(dx, dy);
      else this.level(dx, dy);
    });
    for (const end of ["pointerup", "pointercancel"])
      grey.addEventListener(end, () => {
        from = null;
        grey.classList.remove("panning");
      });
    grey.addEventListener("contextmenu", (event) => event.preventDefault());
    grey.addEventListener("dblclick", () => this.film && this.fit());
    grey.addEventListener(
      "wheel",
      (event) => {
        if (!this.film) return;
        event.preventDefault();
        this.zoom(Math.exp(-Math.sign(event.deltaY) * Math.min(120, Math.abs(event.deltaY)) * 0.002), event.offsetX, event.offsetY);
      },
      { passive: false },
    );
    const step = 12;
    const keys = {
      ArrowUp: () => this.level(0, -step), ArrowDown: () => this.level(0, step),
      ArrowLeft: () => this.level(-step, 0), ArrowRight: () => this.level(step, 0),
      "+": () => this.zoom(1.25), "=": () => this.zoom(1.25), "-": () => this.zoom(0.8), 0: () => this.fit(),
    };
    const pans = { ArrowUp: [0, 40], ArrowDown: [0, -40], ArrowLeft: [40, 0], ArrowRight: [-40, 0] };
    grey.addEventListener("keydown", (event) => {
      if (!this.film || event.ctrlKey || event.metaKey || event.altKey) return;
      const act = event.shiftKey && pans[event.key] ? () => this.pan(...pans[event.key]) : keys[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
  }
}
