// What the page asks the gateway: one function, and errors that say what to do next. Knows no element of the page.

const ANSWER_MS = 60_000;

/** An answer that says no, or none at all. `hint`: what to do next; `facts`: the whole JSON of the error. */
export class ApiError extends Error {
  constructor(status, code, message, hint = "", facts = {}) {
    super(message);
    Object.assign(this, { status, code, hint, facts });
  }

  /** Whether it is only that something of that name is there already. */
  get isTaken() {
    return this.code === "exists" || this.status === 412;
  }

  /** Whether the same request may well succeed a little later. */
  get isPassing() {
    return this.status === 0 || this.status === 408 || this.status === 425 || this.status === 429
      || (this.status >= 500 && this.status !== 501 && this.status !== 505 && this.status !== 507);
  }
}

export function unreachable() {
  return new ApiError(0, "unreachable", "The gateway does not answer.",
    "Check that it still runs and that this machine has a network; the page goes on as soon as it answers.");
}

/** The error that an answer's status and text stand for. */
export function errorOf(status, text) {
  let facts = {};
  try {
    facts = JSON.parse(text) || {};
  } catch {
    // Not our JSON: a proxy between us speaks for itself.
  }
  return new ApiError(status, facts.error || `http_${status}`, sentence(facts.message) || `The gateway answered ${status}.`,
    sentence(facts.hint), facts);
}

function sentence(text) {
  const words = String(text || "").trim();
  if (!words) return "";
  const first = words[0].toUpperCase() + words.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

const heard = new Set();

/** `listen(error)` hears of every answer that asks for a key. */
export function onKeyNeeded(listen) {
  heard.add(listen);
}

export function tellKeyNeeded(error) {
  if (error.status === 401) for (const listen of heard) listen(error);
  return error;
}

/** The JSON of an answer. Raises ApiError; an abort by `signal` passes through as AbortError. */
export async function ask(method, path, { query = {}, body = undefined, signal = undefined, quiet = false } = {}) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== undefined && value !== null)).toString();
  const patience = AbortSignal.timeout(ANSWER_MS);
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-Dfs"] = "1";
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer, text;
  try {
    answer = await fetch(`${path}${words ? `?${words}` : ""}`, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: "same-origin", cache: "no-store",
      signal: signal ? either(signal, patience) : patience,
    });
    text = await answer.text();
  } catch (error) {
    if (signal && signal.aborted) throw error;
    throw unreachable();
  }
  if (!answer.ok) {
    const error = errorOf(answer.status, text);
    throw quiet ? error : tellKeyNeeded(error);
  }
  try {
    return text ? JSON.parse(text) : {};
  } catch {
    throw new ApiError(answer.status, "bad_answer", "The gateway's answer makes no sense.",
      "Something between this page and the gateway may have changed it; reload the page.");
  }
}

function either(one, other) {
  if (AbortSignal.any) return AbortSignal.any([one, other]);
  const both = new AbortController();
  for (const signal of [one, other]) signal.addEventListener("abort", () => both.abort(signal.reason), { once: true });
  return both.signal;
}

const get = (path, query, options) => ask("GET", path, { query, ...options });
const post = (path, body, options) => ask("POST", path, { body, ...options });

export const api = {
  session: () => get("api/session", { optional: 1 }, { quiet: true }),
  signIn: (key) => post("api/session", { key }, { quiet: true }),
  signOut: () => ask("DELETE", "api/session", { quiet: true }),
  list: (path, after, signal, limit = 1000) => get("api/list", { path, after, limit }, { signal }),
  stat: (path, signal) => get("api/stat", { path }, { signal }),
  find: (path, name, signal, limit = 500) => get("api/find", { path, name, limit }, { signal }),
  usage: (path, signal) => get("api/usage", { path }, { signal }),
  why: (what, signal) => get("api/why", what, { signal }),
  status: () => get("api/status", {}),
  throughput: (signal) => get("api/throughput", {}, { signal }),
  uploaded: (path, size, mtime, signal) => get("api/upload", { path, size, mtime }, { signal }),
  mkdir: (path) => post("api/mkdir", { path }),
  rename: (from, to) => post("api/rename", { from, to }),
  copies: (path, copies) => post("api/copies", { path, copies }),
  join: () => post("api/join", {}),
};
