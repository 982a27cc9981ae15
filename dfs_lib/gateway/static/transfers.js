// The panel of uploads at the page's foot: each with its progress, all together with rate and time left.

import { button, calmly, fill, h, icon, name, reconcile, setIcon, setText } from "./dom.js";
import * as format from "./format.js";
import { say, toast } from "./ui.js";
import { uploads } from "./uploads.js";

const SHOWN = 60;
const RATE_S = 4;    // the rate is that of about so many seconds
const ORDER = { sending: 0, pausing: 1, failed: 2, waiting: 3, stored: 4, cancelled: 5 };
const ICONS = { sending: "upload", pausing: "pause", failed: "warning", waiting: "upload", stored: "ok", cancelled: "close" };

/** Fills the panel, and keeps it up to date as long as the page lives. */
export function showTransfers(place) {
  const meter = new Meter();
  const title = h("h2"), rate = h("p", { class: "rate" }), total = progress("All uploads"), list = h("ul", { class: "list" });
  const fold = button({ icon: "chevron-down", label: "Fold the list", kind: "plain", "aria-expanded": "true", on: () => {
    const isFolded = place.classList.toggle("folded");
    fold.setAttribute("aria-expanded", String(!isFolded));
    fold.setAttribute("aria-label", isFolded ? "Unfold the list" : "Fold the list");
  } });
  const stop = button({ text: "Cancel all", kind: "small", on: () => uploads.cancelAll() });
  const again = button({ text: "Try the failed again", kind: "small", on: () => {
    for (const upload of uploads.all.filter((each) => each.state === "failed")) uploads.retry(upload);
  } });
  const away = button({ icon: "close", label: "Close", kind: "plain", on: () => {
    uploads.clear();
    document.getElementById("main").focus({ preventScroll: true });
  } });
  fill(place, h("div", { class: "crown" }, title, again, stop, fold, away), total, rate, list);

  const paint = () => {
    const all = uploads.all, live = all.filter((upload) => upload.state !== "cancelled");
    place.hidden = live.length === 0;
    document.body.classList.toggle("has-transfers", live.length > 0);
    if (!live.length) return;
    const n = (state) => live.filter((upload) => upload.state === state).length, stored = n("stored"), failed = n("failed"), busy = live.length - stored - failed;
    const bytes = live.reduce((sum, upload) => sum + upload.size, 0), sent = live.reduce((sum, upload) => sum + (upload.state === "failed" ? 0 : upload.sent), 0);
    const left = live.reduce((sum, upload) => sum + (upload.isOver ? 0 : upload.size - upload.sent), 0);
    setText(title, busy ? `Uploading ${format.number(Math.min(stored + failed + 1, live.length))} of ${format.number(live.length)}`
      : failed ? `${format.count(stored, "file")} uploaded, ${format.number(failed)} not` : `${format.count(stored, "file")} uploaded`);
    const speed = meter.rate(sent);
    setText(rate, busy ? [`${format.size(sent)} of ${format.size(bytes)}`, speed && format.rate(speed), speed && `${format.duration(left / speed)} left`].filter(Boolean).join(" · ")
      : `${format.size(sent)} of ${format.size(bytes)}`);
    total.max = Math.max(bytes, 1);
    total.value = bytes ? sent : stored;
    total.hidden = !busy;
    stop.hidden = !busy;
    again.hidden = !failed || busy > 0;
    away.hidden = busy > 0;
    const shown = [...live].sort((a, b) => ORDER[a.state] - ORDER[b.state]).slice(0, SHOWN);
    reconcile(list, shown, (upload) => upload, make, update);
  };
  const calm = calmly(paint, 100);
  uploads.addEventListener("changed", calm);
  uploads.addEventListener("begun", () => {
    meter.begin();
    say(`${uploads.all.filter((upload) => !upload.isOver).length} files are being uploaded`);
  });
  uploads.addEventListener("over", () => {
    const failed = uploads.all.filter((upload) => upload.state === "failed"), stored = uploads.all.filter((upload) => upload.state === "stored").length;
    if (failed.length) {
      toast(failed.length === 1 ? ["Not uploaded: ", name(format.base(failed[0].path)), ". ", failed[0].error.message] : `${failed.length} files were not uploaded.`,
        { level: "danger", hint: (failed.length === 1 && failed[0].error.hint) || "The list below says why; “Try the failed again” goes on where it stopped.", key: "uploads" });
    } else if (stored) say(`${format.count(stored, "file")} uploaded`);
  });
  setInterval(() => { if (uploads.isBusy) calm(); }, 500);
  paint();
}

/** Bytes a second over the last few seconds. */
class Meter {
  begin() {
    this.points = [];
  }

  rate(sent) {
    const now_s = performance.now() / 1000;
    this.points = (this.points || []).filter(([at, bytes]) => now_s - at < RATE_S && bytes <= sent);
    this.points.push([now_s, sent]);
    const [[first_s, first]] = this.points;
    return now_s - first_s > 0.3 ? (sent - first) / (now_s - first_s) : 0;
  }
}

function progress(label) {
  return h("progress", { max: "1", value: "0", "aria-label": label });
}

function make(upload) {
  const cancel = button({ icon: "close", label: `Cancel ${format.base(upload.path)}`, kind: "plain small", on: () => {
    const list = cancel.closest("ul");
    uploads.cancel(upload);
    const next = list && list.querySelector("button:not([hidden])");
    (next || document.getElementById("main")).focus({ preventScroll: true });
  } });
  const again = button({ icon: "again", label: `Try ${format.base(upload.path)} again`, kind: "plain small", on: () => uploads.retry(upload, upload.replaces || upload.error.isTaken) });
  return h("li", null, icon("upload"),
    h("div", { class: "what" }, name(format.base(upload.path)), progress(`Upload of ${format.base(upload.path)}`), h("small")), again, cancel);
}

function update(element, upload) {
  const [picture, what, again, cancel] = element.children, [, bar, words] = what.children, state = upload.state;
  if (element.className !== state) element.className = state;
  setIcon(picture, ICONS[state]);
  bar.hidden = !["sending", "pausing"].includes(state);
  bar.max = Math.max(upload.size, 1);
  bar.value = upload.sent;
  again.hidden = state !== "failed";
  cancel.hidden = upload.isOver;
  setText(words, wordsOf(upload));
}

function wordsOf(upload) {
  if (upload.state === "stored") return format.size(upload.size);
  if (upload.state === "waiting") return `waiting · ${format.size(upload.size)}`;
  if (upload.state === "failed") return [upload.error.isTaken ? "Something of that name came to be there meanwhile. Trying again replaces it." : upload.error.message, upload.error.hint].filter(Boolean).join(" ");
  if (upload.state === "pausing") {
    const wait_s = upload.retryAt_ms === null ? 0 : Math.max(0, (upload.retryAt_ms - performance.now()) / 1000);
    return `${upload.error ? upload.error.message.replace(/\.$/, "") : "Interrupted"}; goes on in ${format.seconds(wait_s)}`;
  }
  if (upload.sent >= upload.size && upload.size > 0) return "sent; waiting until it is stored safely";
  return `${format.size(upload.sent)} of ${format.size(upload.size)}`;
}
