// SPDX-License-Identifier: Apache-2.0
// The page: a film comes in, is shown at once, and its draft is written beside it.

import * as api from "./api.js";
import { Findings } from "./findings.js";
import { Film } from "./grey.js";
import { outline } from "./marks.js";
import { element } from "./sentence.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const view = new View($("grey"), $("marks"), showWindow);
const findings = new Findings($("sentences"), { look: (look) => view.mark({ look }), changed, status, failed });

let model = null;
let meta = null; // of the film that is open
let lines = null; // the outline of its mask
let outlined = false;
let unsaved = false;
let opening = null; // AbortController of what is being opened
let last = null; // the file, for "all the same"

const show = (visible) => Object.entries(visible).forEach(([id, on]) => ($(id).hidden = !on));

function status(text, busy = false) {
  $("status").textContent = text;
  $("status").classList.toggle("busy", busy);
}

function failed(error) {
  if (error?.status === 401) return askToken(error);
  $("problem").textContent = error ? `${error.kind ?? "error"}: ${error.message}` : "";
  show({ problem: Boolean(error) });
}

function changed() {
  unsaved = true;
  failed(null);
}

function warn(warnings) {
  const shown = warnings.filter((text) => text !== "the model was trained on synthetic data only" || !model?.notice);
  $("warnings").replaceChildren(...shown.map((text) => element("li", { textContent: sentenceCase(text) })));
}

const sentenceCase = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// The film

async function open(file, force = false) {
  if (!file || !leaveEdits()) return;
  opening?.abort();
  const abort = (opening = new AbortController());
  last = file;
  panel("reading");
  failed(null);
  const start = performance.now();
  let shown = false;
  try {
    if (model && file.size > model.upload_bytes) {
      const most = Math.floor(model.upload_bytes / 2 ** 20);
      throw new api.Failure({ kind: "too large", message: `the file has ${Math.ceil(file.size / 2 ** 20)} MiB; at most ${most} are taken here` });
    }
    const found = await api.openFilm(file, force, abort.signal);
    showFilm(found);
    shown = true;
    await write(abort.signal, start);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === 401) askToken(error);
    else (shown ? failed : refuse)(error);
    status("");
    show({ live: false });
  }
}

function showFilm(found) {
  meta = found.meta;
  lines = null;
  unsaved = false;
  findings.clear();
  panel(null);
  show({ tools: true, keys: true, nothing: false, live: true, adding: false, saving: false, which: true, meaning: false });
  // The file's name is known here only: it is not sent.
  const taken = [meta.modality, meta.view].filter(Boolean).join(" ");
  $("which").textContent = [last.name, taken, `${meta.columns} × ${meta.rows}`].filter(Boolean).join("  ·  ");
  $("grey").setAttribute("aria-label", `Chest film, ${meta.columns} by ${meta.rows} pixels of ${meta.bits} bits`);
  $("windows").replaceChildren(...meta.windows.map((window, index) => {
    const button = element("button", { type: "button", textContent: window.name });
    button.addEventListener("click", () => view.setWindow(meta.windows[index]));
    return button;
  }));
  view.show(new Film(meta, found.values));
  $("invert").setAttribute("aria-pressed", false);
  $("live").textContent = "";
  warn(meta.warnings);
}

async function write(signal, start) {
  status("The model is looking…", true);
  let first = null;
  await api.draft({
    seen: ({ mask, warnings }) => {
      lines = mask && outline(mask);
      $("mask").disabled = lines === null;
      setOutline(outlined);
      warn(warnings);
      status("Writing…", true);
    },
    text: ({ text }) => {
      first ??= performance.now() - start;
      $("live").textContent += text;
    },
    report: (report) => {
      show({ live: false, adding: true, saving: true, meaning: report.sentences.length > 0 });
      findings.show(report.sentences);
      warn(report.warnings);
      $("save-sr").disabled = Boolean(meta.no_sr);
      $("save-sr").title = meta.no_sr || "A DICOM Basic Text SR: preliminary, unverified";
      $("no-sr").textContent = meta.no_sr && `No SR: ${meta.no_sr}.`;
      const words = report.sentences.length ? `${report.sentences.length} sentences` : "The model wrote no text";
      status(`${words} in ${((performance.now() - start) / 1000).toFixed(2)} s`);
    },
  }, signal);
}

function panel(which) {
  $("drop").classList.toggle("away", which === null);
  $("drop").classList.toggle("quiet", which === "reading" || which === "token");
  const before = which !== null && meta !== null; // what stands there is of the film before
  for (const id of ["warnings", "scroll", "saving", "tools"]) $(id).inert = before;
  show({ invite: which === "invite" || which === "refused", refused: which === "refused", reading: which === "reading", "token-form": which === "token" });
  if (which === "reading") status("Reading the film…", true);
}

function refuse(error) {
  $("refused-kind").textContent = error.kind;
  $("refused-text").textContent = sentenceCase(error.message);
  show({ force: Boolean(error.soft) });
  $("back").hidden = meta === null;
  panel("refused");
}

function leaveEdits() {
  return !unsaved || confirm("The edited draft is not saved. Open another film all the same?");
}

// Windows and the outline

function showWindow({ black, white, table }) {
  const digits = Math.abs(white - black) < 20 ? 1 : 0;
  $("window").textContent = `W ${(white - black).toFixed(digits)}  L ${((white + black) / 2).toFixed(digits)}`;
  [...$("windows").children].forEach((button, index) => {
    const one = meta.windows[index];
    button.setAttribute("aria-pressed", one.black === black && one.white === white && Boolean(one.table) === Boolean(table));
  });
}

function setOutline(on) {
  outlined = on;
  $("mask").setAttribute("aria-pressed", on && lines !== null);
  view.mark({ mask: on ? lines : null });
}

function invert() {
  $("invert").setAttribute("aria-pressed", view.invert());
}

// Saving

async function save(format) {
  failed(null);
  try {
    const { name, data } = await api.save(format, findings.texts);
    const link = element("a", { href: URL.createObjectURL(data), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    unsaved = false;
    status(`Saved ${name}, unverified`);
  } catch (error) {
    failed(error);
  }
}

// The token

function askToken(error) {
  panel("token");
  status(error.message);
  $("token").focus();
}

async function begin() {
  try {
    model = await api.about();
  } catch (error) {
    return error.status === 401 ? askToken(error) : refuse(error);
  }
  panel("invite");
  status("");
  $("model").textContent = model.name;
  $("model").title = `${model.intended_use} edge-review ${model.version}`;
  if (model.notice) {
    $("model-notice").textContent = `${sentenceCase(model.notice)}.`;
    show({ "model-notice": true });
  }
}

// Wiring

function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const say = (message) => refuse(new api.Failure({ kind: "one film at a time", message }));
  if (entries.some((entry) => entry.isDirectory)) say("this is a folder; drop one of the films in it");
  else if (transfer.files.length > 1) say(`${transfer.files.length} files were dropped; drop one`);
  else open(transfer.files[0]);
}

const over = (on) => [$("drop"), $("light")].forEach((place) => place.classList.toggle("over", on));
let inside = 0;
addEventListener("dragenter", (event) => {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  inside += 1;
  over(true);
});
addEventListener("dragleave", () => {
  inside = Math.max(0, inside - 1);
  if (!inside) over(false);
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  over(false);
  if (event.dataTransfer?.types.includes("Files")) dropped(event.dataTransfer);
});

const choose = () => $("file").click();
$("file").addEventListener("change", () => {
  open($("file").files[0]);
  $("file").value = "";
});
const clicks = {
  choose, another: choose, invert, "zoom-in": () => view.zoom(1.25), "zoom-out": () => view.zoom(0.8), "zoom-fit": () => view.fit(),
  mask: () => setOutline(!outlined), add: () => findings.add(), force: () => open(last, true), back: () => panel(null),
  "save-sr": () => save("sr"), "save-fhir": () => save("fhir"), "save-text": () => save("text"),
};
for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
$("grey").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || meta === null) return;
  if (event.key === "i") invert();
  if (event.key === "o" && lines) setOutline(!outlined);
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useToken($("token").value.trim());
  begin();
});
addEventListener("beforeunload", (event) => unsaved && event.preventDefault());
addEventListener("pagehide", () => api.close());
addEventListener("pageshow", (event) => event.persisted && location.reload());

api.takeTokenFromAddress();
begin();
