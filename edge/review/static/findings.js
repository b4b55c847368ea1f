// SPDX-License-Identifier: Apache-2.0
// The findings: sentences to read, point at, change, add and finish.

import { complete } from "./api.js";
import { Sentence } from "./sentence.js";

export class Findings {
  // tell.look(look or null), tell.changed(), tell.status(text, busy), tell.failed(error or null)
  constructor(list, tell) {
    Object.assign(this, { list, tell, sentences: [], hovered: null, focused: null });
    this.handlers = {
      changed: () => this.changed(),
      removed: (sentence) => this.removed(sentence),
      finish: (sentence) => this.finish(sentence),
      restore: (sentence) => {
        sentence.rewrite(sentence.written, sentence.finished);
        sentence.area.focus();
        this.changed();
      },
    };
    new ResizeObserver(() => this.sentences.forEach((sentence) => sentence.grow())).observe(list);
  }

  get texts() {
    return this.sentences.map((sentence) => sentence.text).filter(Boolean);
  }

  clear() {
    this.running?.abort();
    Object.assign(this, { sentences: [], hovered: null, focused: null });
    this.list.replaceChildren();
  }

  show(sentences) {
    this.clear();
    for (const written of sentences) this.insert(new Sentence(written, this.handlers), this.sentences.length);
  }

  // A new sentence to begin, behind all others or behind `before`.
  add(before = this.sentences.at(-1)) {
    const made = new Sentence(null, this.handlers);
    this.insert(made, before ? this.sentences.indexOf(before) + 1 : 0);
    made.area.focus();
    document.getElementById("adding").scrollIntoView({ block: "nearest" });
    made.item.scrollIntoView({ block: "nearest" });
  }

  insert(sentence, index) {
    this.sentences.splice(index, 0, sentence);
    this.list.insertBefore(sentence.item, this.list.children[index] ?? null);
    const { item, area } = sentence;
    item.addEventListener("pointerenter", () => this.point({ hovered: sentence }));
    item.addEventListener("pointerleave", () => this.point({ hovered: null }));
    item.addEventListener("focusin", () => this.point({ focused: sentence }));
    item.addEventListener("focusout", () => this.point({ focused: null }));
    area.addEventListener("keydown", (event) => this.key(event, sentence));
    this.number();
  }

  number() {
    this.sentences.forEach((sentence, index) => sentence.place(index));
  }

  // The sentence pointed at, else the one with the focus, lights up on the film.
  point(change = {}) {
    Object.assign(this, change);
    const lit = this.hovered ?? this.focused;
    for (const sentence of this.sentences) sentence.item.classList.toggle("lit", sentence === lit);
    this.tell.look(lit?.look ?? null);
  }

  changed() {
    this.point();
    this.tell.changed();
  }

  removed(sentence) {
    const index = this.sentences.indexOf(sentence);
    this.sentences.splice(index, 1);
    sentence.item.remove();
    this.number();
    this.point({ hovered: null, focused: null });
    this.tell.changed();
    (this.sentences[Math.max(0, index - 1)]?.area ?? document.getElementById("add")).focus();
  }

  key(event, sentence) {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    const { area } = sentence;
    const atEnd = area.selectionStart === area.value.length;
    if (event.key === "Tab" && !event.shiftKey && sentence.begun && atEnd && !sentence.leaving) {
      event.preventDefault();
      this.finish(sentence);
    } else if (event.key === "Escape") {
      // Takes a completion back; otherwise the next Tab leaves the field, so that the keyboard is never trapped.
      if (sentence.busy) this.running.abort();
      else if (sentence.typed !== undefined) this.takeBack(sentence);
      else sentence.leaving = true;
    } else if (event.key === "Enter") {
      event.preventDefault();
      const next = this.sentences[sentence.index + 1];
      if (next && !event.shiftKey) next.area.focus();
      else if (sentence.text) this.add(sentence);
    } else if (event.key === "Backspace" && area.value === "") {
      event.preventDefault();
      this.removed(sentence);
    } else if (event.key.length === 1) {
      sentence.leaving = false;
      sentence.typed = undefined;
    }
  }

  takeBack(sentence) {
    sentence.area.value = sentence.typed;
    sentence.typed = undefined;
    if (sentence.finished) Object.assign(sentence, { written: sentence.before, finished: false, drawn: undefined });
    sentence.refresh();
    this.changed();
  }

  // The model finishes what stands in the field; it goes on from all sentences before it.
  async finish(sentence) {
    if (!sentence.begun || sentence.busy) return;
    this.running?.abort();
    const abort = (this.running = new AbortController());
    const { area } = sentence, start = performance.now();
    const before = this.sentences.slice(0, sentence.index).map((one) => one.text).filter(Boolean);
    let first = null;
    Object.assign(sentence, { typed: area.value, before: sentence.written, busy: true });
    area.readOnly = true;
    area.focus();
    this.tell.status("Finishing…", true);
    const append = ({ text }) => {
      area.value += text;
      first ??= performance.now() - start;
      sentence.grow();
    };
    try {
      let end = null;
      await complete(before, area.value.trimStart(), { text: append, done: (event) => (end = event) }, abort.signal);
      const written = end.sentences.at(-1);
      if (written && written.text === sentence.text) {
        sentence.rewrite(written, true);
      }
      const total = performance.now() - start;
      this.tell.status(`Finished in ${total.toFixed(0)} ms, first word after ${(first ?? total).toFixed(0)} ms`);
    } catch (error) {
      area.value = sentence.typed;
      sentence.typed = undefined;
      this.tell.status("");
      if (error.name !== "AbortError") this.tell.failed(error);
    } finally {
      sentence.busy = area.readOnly = false;
      area.setSelectionRange(area.value.length, area.value.length);
      sentence.refresh();
      this.changed();
    }
  }
}
