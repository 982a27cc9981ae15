// The view of the cluster: the verdict first, then what it rests on. Each part is made once and changes in place, so that a selection,
// the focus and a screen reader's place survive the news.

import { api } from "./api.js";
import { button, calmly, fill, h, icon, name, reconcile, setIcon, setText } from "./dom.js";
import * as format from "./format.js";
import { HealthPicture } from "./health.js";
import { KeeperTable } from "./keepers.js";
import { live, on } from "./live.js";
import { ThroughputPlot } from "./plot.js";
import { loading } from "./ui.js";

const EVENTS_SHOWN = 12;
const WAITING_SHOWN = 8;
const LEVELS = new Set(["ok", "busy", "warning", "danger"]);

export function showCluster(place, _route, signal) {
  const parts = [new Verdict(), new Space(), new Health(), new Throughput(signal), new KeeperTable(), new Repairs(), new Events(signal)];
  const wait = loading("Asking the cluster…");
  const grid = h("div", { class: "cluster-grid", hidden: true }, parts.map((part) => part.element));
  fill(place, h("h1", { class: "quiet" }, "Cluster"), wait, grid);
  const paint = () => {
    if (!live.status) return;
    wait.remove();
    grid.hidden = false;
    for (const part of parts) part.paint(live.status);
  };
  const tick = () => { for (const part of parts) if (part.tick && live.status) part.tick(live.status); };
  on("status", paint, signal);
  on("tick", tick, signal);
  paint();
}

function panel(kind, title, ...children) {
  const id = `panel-${kind}`;
  return h("section", { class: `panel ${kind}`, "aria-labelledby": id }, h("h2", { id }, title), children);
}

/** How it is, in one sentence; alarms below it. */
class Verdict {
  constructor() {
    this.picture = icon("busy");
    this.sentence = h("p", { class: "sentence" });
    this.facts = h("p", { class: "hint" });
    this.alarms = h("ul", { class: "alarms" });
    this.said = h("p", { class: "quiet", role: "status" });
    this.element = h("section", { class: "panel verdict", "aria-label": "Verdict" }, this.picture,
      h("div", null, this.sentence, this.facts, this.alarms), this.said);
  }

  paint(status) {
    const { level, sentence } = status.verdict;
    this.element.className = `panel verdict ${level}`;
    setIcon(this.picture, level);
    const words = sentence ? sentence[0].toUpperCase() + sentence.slice(1) : "";
    setText(this.sentence, words);
    // A sentence counts seconds; a screen reader hears it when the level changes.
    if (this.level !== level) setText(this.said, words);
    this.level = level;
    reconcile(this.alarms, status.alarms || [], (text) => text, (text) => h("li", null, icon("danger"), name(text)), () => {});
    this.alarms.hidden = !(status.alarms || []).length;
    this.facts.dataset.text = `${format.count(status.files, "file")} in ${format.count(status.directories, "folder")}, ${format.size(status.bytes)}; `
      + `${format.count(status.copies, "copy", "copies")} wanted of each unless its owner says otherwise`;
    this.tick();
  }

  tick() {
    const age = live.age_s;
    setText(this.facts, `${this.facts.dataset.text}. ${live.state === "live" && age < 6 ? "As of now." : `As of ${format.seconds(age)} ago.`}`);
  }
}

/** The keepers' disks together. */
class Space {
  constructor() {
    this.words = h("p", { class: "hint" });
    this.big = h("p", { class: "big" });
    this.bar = h("progress", { max: "1", value: "0", "aria-label": "Space used" });
    this.used = h("dd");
    this.free = h("dd");
    this.element = panel("space", "Space", this.words, this.big, this.bar,
      h("dl", { class: "facts" }, h("dt", null, "used"), this.used, h("dt", null, "free"), this.free));
  }

  paint(status) {
    const living = status.keepers.filter((keeper) => keeper.state !== "dead");
    const used = living.reduce((sum, keeper) => sum + keeper.used, 0), free = living.reduce((sum, keeper) => sum + keeper.free, 0);
    setText(this.words, living.length ? `Room for more, at ${format.count(status.copies, "copy", "copies")} of each file` : "No keeper is there to store anything");
    setText(this.big, living.length ? format.size(free / Math.max(1, status.copies)) : "None");
    setText(this.used, format.size(used));
    setText(this.free, format.size(free));
    this.bar.max = Math.max(1, used + free);
    this.bar.value = used;
  }
}

/** How many blocks have how many of their copies. */
class Health {
  constructor() {
    this.picture = new HealthPicture();
    this.element = panel("health", "Copies", this.picture.element);
  }

  paint(status) {
    this.picture.paint(status);
  }
}

/** What moves through all keepers, now and in the last hour; asked for anew every few seconds. */
class Throughput {
  constructor(signal) {
    this.plot = new ThroughputPlot(signal);
    this.element = panel("throughput", "Throughput", this.plot.element);
    this.signal = signal;
    this.next_ms = 0;
  }

  paint() {
    this.tick();
  }

  async tick() {
    if (performance.now() < this.next_ms || live.state !== "live" || document.hidden) return;
    this.next_ms = performance.now() + 2_500;
    try {
      const answer = await api.throughput(this.signal);
      if (!this.signal.aborted) this.plot.paint(answer);
    } catch {
      // The banner says when nothing answers; the plot keeps what it has.
    }
  }
}

/** What is being copied, and what waits. */
class Repairs {
  constructor() {
    this.sum = h("p", { class: "hint" });
    this.list = h("ul", { class: "repairs" });
    this.waiting = h("ul", { class: "waiting" });
    this.waits = h("h3", null, "Waiting");
    this.element = panel("repair", "Repairs", this.sum, this.list, this.waits, this.waiting);
  }

  paint(status) {
    // What is under way stands among what waits too, for those who only read the status.
    const repairs = status.repairs || [], busy = new Set(repairs.map((repair) => repair.path));
    const waiting = (status.waiting || []).filter((each) => !busy.has(each.path));
    const eta = status.repair_eta_s;
    const parts = status.repairs_running ? [format.count(status.repairs_running, "repair"), status.repair_bytes_left && `${format.size(status.repair_bytes_left)} left`,
      status.repair_rate && format.rate(status.repair_rate), eta && `all done in about ${format.duration(eta)}`].filter(Boolean) : [];
    setText(this.sum, parts.length ? `${parts.join(" · ")}.` : waiting.length ? "None under way." : "Nothing to repair.");
    reconcile(this.list, repairs, (repair) => `${repair.path} ${repair.block || ""} ${repair.from} ${repair.to}`, makeRepair, updateRepair);
    this.list.hidden = !repairs.length;
    reconcile(this.waiting, waiting.slice(0, WAITING_SHOWN), (each) => `${each.path} ${each.block || ""}`, (each) => h("li", null, name(each.path), h("small")),
      (element, each) => setText(element.lastChild, `${each.reason}${each.next_try_s > 0 ? `; looked at again in ${format.duration(each.next_try_s)}` : ""}`));
    this.waits.hidden = this.waiting.hidden = !waiting.length;
    setText(this.waits, waiting.length > WAITING_SHOWN ? `Waiting (${WAITING_SHOWN} of ${format.number(waiting.length)})` : "Waiting");
  }
}

function makeRepair(repair) {
  return h("li", null, icon("busy", "busy"), name(repair.path), h("small", null, name(repair.from), " to ", name(repair.to)), h("small", { class: "eta" }));
}

function updateRepair(element, repair) {
  setText(element.lastChild, [format.size(repair.bytes), typeof repair.eta_s === "number" && `about ${format.duration(repair.eta_s)}`].filter(Boolean).join(" · "));
}

/** What happened, the newest first. */
class Events {
  constructor(signal) {
    this.list = h("ol", { class: "events", reversed: true });
    this.none = h("p", { class: "hint" }, "Nothing has happened since this gateway began to watch.");
    this.all = button({ text: "Show all", kind: "small", on: () => { this.showsAll = !this.showsAll; this.paint(); } });
    this.element = panel("happenings", "Events", this.none, this.list, this.all);
    on("happening", calmly(() => this.paint(), 100), signal);
  }

  paint() {
    const shown = this.showsAll ? live.happenings : live.happenings.slice(0, EVENTS_SHOWN);
    reconcile(this.list, shown, (each) => each.id || `${each.at} ${each.text}`, (each) => {
      const level = LEVELS.has(each.level) ? each.level : "info", at_ms = each.at * 1000;
      return h("li", { class: level }, icon(level), h("time", { datetime: new Date(at_ms).toISOString(), title: format.time(at_ms, true) }, format.clock(at_ms, true)), name(each.text));
    }, () => {});
    this.none.hidden = shown.length > 0;
    this.all.hidden = live.happenings.length <= EVENTS_SHOWN;
    setText(this.all.firstChild, this.showsAll ? "Show fewer" : `Show all ${live.happenings.length}`);
  }
}
