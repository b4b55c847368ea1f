// SPDX-License-Identifier: Apache-2.0
// Talking to the server. The token comes behind # in the address and stays in this tab.

let token = sessionStorage.getItem("edge-review-token") ?? "";
let session = "";

// A failure with one clear line: `kind`, `message`, and `soft` where the film may be taken all the same.
export class Failure extends Error {
  constructor({ kind = "error", message = "something went wrong", soft = false } = {}, status = 0) {
    super(message);
    Object.assign(this, { kind, soft, status });
  }
}

export function takeTokenFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  useToken(given);
  history.replaceState(null, "", location.pathname);
}

export function useToken(given) {
  token = given;
  sessionStorage.setItem("edge-review-token", given);
}

async function ask(path, { method = "POST", body, signal, keepalive } = {}) {
  const headers = { "X-Edge-Review": "1" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (session) headers["X-Edge-Session"] = session;
  const json = body !== undefined && !(body instanceof Blob);
  if (json) headers["Content-Type"] = "application/json";
  let answer;
  try {
    const sent = json ? JSON.stringify(body) : body;
    answer = await fetch(path, { method, headers, body: sent, signal, keepalive, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({ kind: "no answer", message: "edge-review does not answer; is it still running?" });
  }
  if (!answer.ok) throw new Failure(await answer.json().catch(() => ({})), answer.status);
  return answer;
}

export async function about() {
  return (await ask("api/about", { method: "GET" })).json();
}

// A film's file -> { meta, values }: what is known of it, and its grey values.
export async function openFilm(file, force, signal) {
  const answer = await ask(`api/film${force ? "?force=1" : ""}`, { body: file, signal });
  session = answer.headers.get("X-Edge-Session") ?? "";
  const data = await answer.arrayBuffer();
  const length = new DataView(data).getUint32(0, true);
  const meta = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const Values = meta.bytes === 2 ? Uint16Array : Uint8Array;
  return { meta, values: new Values(data, 4 + length, meta.rows * meta.columns) };
}

export const draft = (on, signal) => events("api/report", {}, on, signal);
export const complete = (before, text, on, signal) => events("api/complete", { before, text }, on, signal);

export async function save(format, sentences) {
  const answer = await ask("api/save", { body: { format, sentences } });
  const name = /filename="([\w.-]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? "draft";
  return { name, data: await answer.blob() };
}

export function close() {
  if (session) ask("api/close", { keepalive: true }).catch(() => {});
  session = "";
}

// Reads a stream of JSON lines; on[event.event](event) for each as it comes.
async function events(path, body, on, signal) {
  const answer = await ask(path, { body, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  const take = (line) => {
    const event = JSON.parse(line);
    if (event.event === "error") throw new Failure(event);
    ended ||= event.event === "report" || event.event === "done";
    on[event.event]?.(event);
  };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.forEach(take);
  }
  if (!ended) throw new Failure({ kind: "no answer", message: "edge-review stopped in the middle; is it still running?" });
}
