// SPDX-License-Identifier: Apache-2.0
// One sentence of the findings: its text to change, how sure the model was, where it looked.

import { Look, colour, css } from "./marks.js";

const LOW = 0.5; // below it the meter is amber

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export class Sentence {
  // `written`: the model's { text, confidence, evidence }, or null for a sentence that a person begins.
  constructor(written, handlers) {
    this.written = written;
    this.finished = false; // begun by a person, finished by the model
    this.badge = element("span", { className: "badge" });
    this.badge.setAttribute("aria-hidden", "true");
    // No spelling help: some browsers would send the text away for it.
    const field = { rows: 1, spellcheck: false, autocomplete: "off", placeholder: "Begin a sentence…" };
    this.area = element("textarea", { ...field, value: written?.text ?? "" });
    this.about = element("div", { className: "about" });
    this.remove = element("button", { type: "button", className: "remove", textContent: "×", title: "Remove this sentence" });
    this.item = element("li", {}, this.badge, this.area, this.remove, this.about);
    this.area.addEventListener("input", () => {
      this.refresh();
      handlers.changed(this);
    });
    this.remove.addEventListener("click", () => handlers.removed(this));
    this.handlers = handlers;
  }

  get text() {
    return this.area.value.replace(/\s+/g, " ").trim();
  }

  get byModel() {
    return this.written !== null && this.text === this.written.text;
  }

  // Whether there is a beginning that the model could finish.
  get begun() {
    return /\p{L}|\p{N}/u.test(this.text) && !/[.!?]["')\]]*$/.test(this.text);
  }

  // What to draw on the film, or null: a changed sentence is not what the model looked for.
  get look() {
    if (!this.byModel || !this.written.evidence) return null;
    this.drawn ??= new Look(this.written.evidence, this.index);
    return this.drawn;
  }

  place(index) {
    if (this.index !== index) this.drawn = undefined;
    this.index = index;
    this.badge.textContent = index + 1;
    this.item.style.setProperty("--own", css(colour(index)));
    this.refresh();
  }

  // The model's words for what is there now.
  rewrite(written, finished) {
    Object.assign(this, { written, finished, drawn: undefined });
    this.area.value = written.text;
    this.refresh();
  }

  refresh() {
    const { about, byModel, written } = this;
    const sure = byModel ? written.confidence : null;
    this.item.classList.toggle("low", sure !== null && sure < LOW);
    this.item.classList.toggle("unseen", !byModel || !written.evidence);
    about.replaceChildren();
    if (sure !== null) {
      const bar = element("i");
      bar.style.width = `${Math.round(sure * 100)}%`;
      const meter = element("span", { className: "meter" }, bar);
      meter.setAttribute("aria-hidden", "true");
      const title = "How sure the model was of its words, not how likely the finding is";
      about.append(meter, element("span", { className: "sure", textContent: `confidence ${Math.round(sure * 100)} %`, title }));
    }
    if (byModel && this.finished) about.append(element("span", { className: "tag hand", textContent: "begun by you" }));
    if (!byModel && this.text) about.append(element("span", { className: "tag hand", textContent: written ? "edited" : "typed by you" }));
    if (this.begun && !this.busy) {
      const finish = element("button", { type: "button", className: "finish", textContent: "Finish ⇥", title: "Let the model finish it (Tab)" });
      finish.addEventListener("click", () => this.handlers.finish(this));
      about.append(finish);
    }
    if (written && !byModel && !this.busy) {
      const back = element("button", { type: "button", className: "finish", textContent: "Restore", title: written.text });
      back.addEventListener("click", () => this.handlers.restore(this));
      about.append(back);
    }
    const how = sure !== null ? `, confidence ${Math.round(sure * 100)} percent` : byModel ? "" : ", edited by hand";
    this.area.setAttribute("aria-label", `Sentence ${this.index + 1}${how}`);
    this.remove.setAttribute("aria-label", `Remove sentence ${this.index + 1}`);
    this.grow();
  }

  grow() {
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight + 2}px`;
  }
}
