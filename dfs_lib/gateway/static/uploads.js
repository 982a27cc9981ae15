// Uploads: the queue, and the patience of each. Knows no element of the page; the one question is asked by conflicts.js.
//
//   offer ─▶ names that are there? ─▶ one question ─▶ folders are made ─▶ waiting ─▶ sending ─▶ stored
//                                                                          ▲         │ broken
//                                                                          └ pausing ◀┘   after a growing pause: GET /api/upload says
//                                                                                         how much is there, Content-Range sends the rest
//
// A file is gone on with only while this page holds it, and never further than this page itself has sent of it: what the cluster has of
// an interrupted upload is known by path and size alone, and might be another file's. The browser refuses to read a File that changed on
// the disk since it was chosen. So two halves of different files never meet.
//
// A browser may send a request again by itself when its connection breaks, from the start and without a word: what stands still for
// STALL_MS is broken off, and goes on from where the cluster has it.

import { api, ApiError, errorOf, tellKeyNeeded, unreachable } from "./api.js";
import * as format from "./format.js";
import { askAboutNames } from "./conflicts.js";

export const AT_ONCE = 3;
const PAUSES_S = [1, 2, 4, 8, 15, 30];
const MOST_TRIES = 20;       // without a byte of progress between them
const STALL_MS = 20_000, STORE_MS = 180_000;   // while bytes are to be sent; while the last of them are made durable
const MOST_NAMES = 20_000;   // a folder with more is not read whole to find names that are there: If-None-Match tells

export class Upload {
  constructor(file, path, replaces) {
    Object.assign(this, { file, path, replaces, size: file.size, sent: 0, reached: 0, state: "waiting", error: null, tries: 0, retryAt_ms: null, request: null });
  }

  get isOver() {
    return ["stored", "failed", "cancelled"].includes(this.state);
  }
}

class Uploads extends EventTarget {
  constructor() {
    super();
    this.all = [];
    window.addEventListener("online", () => {
      for (const upload of this.all) if (upload.wake) upload.wake();
    });
  }

  get isBusy() {
    return this.all.some((upload) => !upload.isOver);
  }

  /** Takes what was dropped or picked to a folder: asks about names that are there, makes folders, queues the files. */
  async offer(found, to) {
    const files = found.filter((each) => each.file).map(({ file, path }) => ({ file, path: to === "/" ? `/${path}` : `${to}/${path}` }));
    const folders = new Set(found.filter((each) => each.folder).map((each) => format.join(to, each.folder)));
    for (const { path } of files) for (let up = format.parent(path); up !== to && up !== "/"; up = format.parent(up)) folders.add(up);
    if (!files.length && !folders.size) return;
    const names = new Names();
    const there = [];
    for (const file of files) {
      const kind = await names.kindOf(file.path);
      if (kind) there.push({ ...file, kind });
    }
    const answer = there.length ? await askAboutNames(there) : "replace";
    if (answer === null) return;
    const isThere = new Map(there.map((each) => [each.path, each.kind])), queued = [];
    for (const file of files) {
      const kind = isThere.get(file.path);
      let { path } = file;
      if (kind && (answer === "both" || (kind === "dir" && answer === "replace"))) {
        path = format.join(format.parent(path), await names.free(path));
        names.add(path, "file");
      } else if (kind && answer === "skip") continue;
      queued.push(new Upload(file.file, path, Boolean(kind) && path === file.path));
    }
    for (const folder of [...folders].sort((a, b) => a.split("/").length - b.split("/").length)) {
      if (await names.kindOf(folder) === "dir") continue;
      await api.mkdir(folder).catch((error) => { if (!error.isTaken) throw error; });
      names.add(folder, "dir");
      this.told("stored", folder);
    }
    this.all.push(...queued);
    if (queued.length) this.told("begun");
    this.pump();
  }

  pump() {
    const busy = this.all.filter((upload) => ["sending", "pausing"].includes(upload.state)).length;
    for (const upload of this.all.filter((each) => each.state === "waiting").slice(0, Math.max(0, AT_ONCE - busy))) {
      upload.state = "sending";
      this.run(upload).then(() => {
        this.told("changed");
        this.pump();
        if (!this.isBusy) this.told("over");
      });
    }
    this.told("changed");
  }

  /** One upload from beginning to end; its state tells how it ended. Raises nothing. */
  async run(upload) {
    let offset = upload.resumeFrom || 0;
    while (!upload.isOver) {
      try {
        upload.state = "sending";
        upload.sent = offset;
        await send(upload, offset, () => this.told("changed"));
        upload.sent = upload.size;
        upload.state = "stored";
        this.told("stored", upload.path);
      } catch (error) {
        if (upload.state === "cancelled") return;
        if (upload.sent > offset) upload.tries = 0;
        upload.error = error;
        upload.tries += 1;
        if (error.code === "resume_mismatch" && offset > 0 && upload.tries < MOST_TRIES) {
          offset = Math.min(await stored(upload).catch(() => 0), Math.max(0, offset - 1));
        } else if (upload.tries > 1 && error.isTaken && await isOurs(upload)) {
          upload.state = "stored";  // all was sent and stored, and the answer was lost on its way
          this.told("stored", upload.path);
        } else if (!error.isPassing || upload.tries >= MOST_TRIES) {
          upload.state = "failed";
          this.told("failed", upload.path);
        } else {
          offset = await this.pause(upload);
        }
      }
    }
  }

  /** Waits, and finds out how much of it is there. Returns that. */
  async pause(upload) {
    for (;;) {
      const pause_s = PAUSES_S[Math.min(upload.tries - 1, PAUSES_S.length - 1)];
      upload.state = "pausing";
      upload.retryAt_ms = performance.now() + pause_s * 1000;
      this.told("changed");
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, pause_s * 1000);
        upload.wake = () => { clearTimeout(timer); resolve(); };
      });
      upload.wake = null;
      if (upload.state === "cancelled") return 0;
      try {
        return await stored(upload);
      } catch (error) {
        upload.error = error;
        if (!error.isPassing) return 0;
        upload.tries += 1;
        if (upload.tries >= MOST_TRIES) return 0;
      }
    }
  }

  cancel(upload) {
    if (upload.isOver) return;
    upload.state = "cancelled";
    if (upload.request) upload.request.abort();
    if (upload.wake) upload.wake();
    this.told("changed");
    this.pump();
    if (!this.isBusy) this.told("over");
  }

  cancelAll() {
    for (const upload of this.all) {
      if (upload.isOver) continue;
      upload.state = "cancelled";
      if (upload.request) upload.request.abort();
      if (upload.wake) upload.wake();
    }
    this.told("changed");
  }

  /** Once more; what was stored of it is not sent again. */
  async retry(upload, replaces = upload.replaces) {
    Object.assign(upload, { state: "pausing", error: null, tries: 1, replaces, retryAt_ms: null });
    this.told("changed");
    upload.resumeFrom = await stored(upload).catch(() => 0);
    if (upload.state !== "pausing") return;
    upload.state = "waiting";
    this.pump();
  }

  /** Forgets what is over. */
  clear() {
    this.all = this.all.filter((upload) => !upload.isOver);
    this.told("changed");
  }

  told(kind, path = null) {
    this.dispatchEvent(Object.assign(new Event(kind), { path }));
  }
}

export const uploads = new Uploads();

/** How much of it need not be sent again. */
async function stored(upload) {
  if (upload.size === 0) return 0;
  const { offset } = await api.uploaded(upload.path, upload.size, upload.file.lastModified / 1000);
  return offset <= upload.reached && offset < upload.size ? offset : 0;
}

/** PUT of a file from an offset. Resolves when it is stored; raises ApiError. */
function send(upload, offset, progressed) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    upload.request = request;
    request.open("PUT", format.fileUrl(upload.path));
    request.setRequestHeader("X-Dfs", "1");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("X-Dfs-Mtime", String(upload.file.lastModified / 1000));
    if (!upload.replaces) request.setRequestHeader("If-None-Match", "*");
    if (offset > 0) request.setRequestHeader("Content-Range", `bytes ${offset}-${upload.size - 1}/${upload.size}`);
    let moved_ms = performance.now(), isStalled = false;
    const watch = setInterval(() => {
      if (performance.now() - moved_ms < (upload.sent < upload.size ? STALL_MS : STORE_MS)) return;
      isStalled = true;
      request.abort();
    }, 1_000);
    request.onloadend = () => clearInterval(watch);
    request.upload.onprogress = (event) => {
      const sent = Math.min(upload.size, offset + event.loaded);
      if (sent > upload.sent) moved_ms = performance.now();
      upload.sent = sent;
      upload.reached = Math.max(upload.reached, sent);
      progressed();
    };
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) resolve();
      else reject(tellKeyNeeded(errorOf(request.status, request.responseText)));
    };
    request.onerror = request.ontimeout = () => reject(readable(upload.file).then((fault) => fault || unreachable()));
    request.onabort = () => reject(isStalled ? stalled() : unreachable());
    request.send(offset > 0 ? upload.file.slice(offset) : upload.file);
  }).catch(async (error) => { throw await error; }).finally(() => { upload.request = null; });
}

function stalled() {
  return new ApiError(0, "stalled", "Nothing moved any more.", "The network or the cluster is too slow just now; it is tried again.");
}

/** An error when the file on this machine can no longer be read (it changed or went), else null. */
async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return null;
  } catch {
    return Object.assign(errorOf(400, ""), { code: "file_changed", message: "The file changed or went away on this machine while it was sent.",
                                             hint: "Choose it again." });
  }
}

/** Whether what lies at the path is what this upload sent: same size, same time of change. */
async function isOurs(upload) {
  try {
    const entry = await api.stat(upload.path);
    return entry.type === "file" && entry.size === upload.size && Math.abs(Date.parse(entry.mtime) - upload.file.lastModified) < 1;
  } catch {
    return false;
  }
}

/** Which names are there, read once a folder. */
class Names {
  constructor() {
    this.folders = new Map();
  }

  async of(folder) {
    if (!this.folders.has(folder)) this.folders.set(folder, this.read(folder));
    return this.folders.get(folder);
  }

  async read(folder) {
    if (folder !== "/" && await this.kindOf(folder) !== "dir") return new Map();
    const names = new Map();
    let next = null;
    do {
      const page = await api.list(folder, next);
      for (const entry of page.entries) names.set(entry.name, entry.type);
      next = page.next;
    } while (next && names.size < MOST_NAMES);
    return names;
  }

  /** "file", "dir", or undefined. */
  async kindOf(path) {
    return (await this.of(format.parent(path))).get(format.base(path));
  }

  async free(path) {
    const names = await this.of(format.parent(path));
    return format.freeName(format.base(path), (each) => names.has(each));
  }

  add(path, kind) {
    this.folders.get(format.parent(path)).then((names) => names.set(format.base(path), kind));
  }
}
