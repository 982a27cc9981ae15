// The keepers: state, space, load, when last heard of, where; and why, on a click.

import { api } from "./api.js";
import { button, fill, h, icon, name, reconcile, setIcon, setText } from "./dom.js";
import { reasons } from "./details.js";
import * as format from "./format.js";
import { live } from "./live.js";
import { isAdmin, mayAskWhy } from "./session.js";
import { ask, empty, failed, loading } from "./ui.js";

const RANK = { dead: 0, stopped: 1, suspect: 2, draining: 3, live: 4 };  // the words for a keeper's state, as the gateway says them
const ICONS = { dead: "danger", stopped: "warning", suspect: "warning", draining: "busy", live: "ok" };
const NAMES = new Intl.Collator("en", { numeric: true });
const ORDERS = {
  keeper: (a, b) => (RANK[a.word] ?? 0) - (RANK[b.word] ?? 0) || NAMES.compare(a.name, b.name),
  space: (a, b) => fullness(b) - fullness(a) || NAMES.compare(a.name, b.name),
  blocks: (a, b) => b.blocks - a.blocks || NAMES.compare(a.name, b.name),
  load: (a, b) => b.load - a.load || NAMES.compare(a.name, b.name),
  room: (a, b) => NAMES.compare(roomOf(a), roomOf(b)) || NAMES.compare(a.name, b.name),
};
const COLUMNS = [["keeper", "Keeper"], ["space", "Space"], ["blocks", "Blocks"], ["load", "Load"], [null, "Heard"], ["room", "Room"], [null, "Address"]];

const fullness = (keeper) => (keeper.used + keeper.free > 0 ? keeper.used / (keeper.used + keeper.free) : 0);
const roomOf = (keeper) => (keeper.labels && keeper.labels.room) || "";

export class KeeperTable {
  constructor() {
    this.order = "keeper";
    this.heads = COLUMNS.map(([key, text]) => h("th", { role: "columnheader", scope: "col", data: { key: key || "" } },
      key ? h("button", { type: "button", class: "sort", on: { click: () => { this.order = key; this.paint(live.status); } } }, h("span", null, text), icon("down")) : text));
    this.body = h("tbody", { role: "rowgroup" });
    this.table = h("table", { role: "table", class: "keepers", "aria-labelledby": "panel-keepers" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, this.heads)), this.body);
    this.sum = h("small");
    this.none = h("div");
    this.element = h("section", { class: "panel keeper-panel", "aria-labelledby": "panel-keepers" }, h("h2", { id: "panel-keepers" }, "Keepers ", this.sum), this.none, this.table);
  }

  paint(status) {
    const keepers = [...status.keepers].sort(ORDERS[this.order]);
    const states = Object.keys(RANK).reverse().map((word) => [word, keepers.filter((keeper) => keeper.word === word).length]).filter(([, n]) => n);
    setText(this.sum, states.map(([word, n]) => `${n} ${word}`).join(", "));
    this.table.hidden = !keepers.length;
    if (!keepers.length && !this.none.firstChild) {
      fill(this.none, empty("busy", "No keeper has joined yet.", "A keeper gives the cluster its disk; nothing can be stored before one is there.",
        isAdmin() && h("a", { class: "button main", href: "#/join" }, "Add a keeper")));
    } else if (keepers.length) fill(this.none);
    for (const head of this.heads) if (head.dataset.key) head.setAttribute("aria-sort", head.dataset.key === this.order ? "descending" : "none");
    reconcile(this.body, keepers, (keeper) => keeper.keeper_id, make, update);
  }

  tick(status) {
    for (const keeper of status.keepers) {
      const row = this.body.keyed && this.body.keyed.get(keeper.keeper_id);
      if (row) setText(row.children[4].lastChild, heard(keeper));
    }
  }
}

function make(keeper) {
  const cell = (kind, label, ...children) => h("td", { role: "cell", class: kind }, h("span", { class: "label", "aria-hidden": "true" }, label), children);
  return h("tr", { role: "row" },
    h("th", { role: "rowheader", scope: "row", class: "keeper" },
      h("button", { type: "button", class: "link", title: "Why it is as it is", on: { click: () => explain(keeper.keeper_id) } }, name(keeper.name)),
      h("span", { class: "badge" }, icon("ok"), h("span"))),
    cell("space", "Space", h("progress", { max: "1", value: "0", "aria-hidden": "true" }), h("span", { class: "words" })),
    cell("blocks", "Blocks", h("span")), cell("load", "Load", h("span")), cell("heard", "Heard", h("span")), cell("room", "Room", h("span")), cell("address", "Address", h("span")));
}

function update(row, keeper) {
  const [who, space, blocks, load, hear, room, address] = row.children, badge = who.lastChild;
  const state = keeper.sick && keeper.word === "live" ? "sick" : keeper.word;
  row.className = state;
  badge.className = `badge ${state}`;
  badge.title = keeper.sick || keeper.reason || "";
  setIcon(badge, ICONS[state] || "warning");
  setText(badge.lastChild, state);
  const total = keeper.used + keeper.free, [, bar, words] = space.children;
  bar.max = Math.max(1, total);
  bar.value = keeper.used;
  bar.className = fullness(keeper) > 0.95 ? "danger" : fullness(keeper) > 0.85 ? "warning" : "";
  setText(words, total ? `${format.size(keeper.used)} of ${format.size(total)}` : "not known yet");
  setText(blocks.lastChild, format.number(keeper.blocks));
  setText(load.lastChild, keeper.load === 0 ? "idle" : format.count(keeper.load, "transfer"));
  setText(hear.lastChild, heard(keeper));
  setText(room.lastChild, roomOf(keeper) || "\u2013");
  setText(address.lastChild, `${keeper.host}:${keeper.ports.join(", ")}`);
}

function heard(keeper) {
  if (keeper.heartbeat_age_s === null || keeper.heartbeat_age_s === undefined) return "never";
  const age = keeper.heartbeat_age_s + (live.age_s || 0);
  return age < 2.5 && live.state === "live" ? "just now" : `${format.seconds(age)} ago`;
}

/** What `why` says of a keeper, and what else is known of it. */
function explain(id) {
  const stop = new AbortController(), known = () => live.status.keepers.find((keeper) => keeper.keeper_id === id), keeper = known();
  const place = h("div", { class: "why" });
  const load = async () => {
    fill(place, loading("Asking why…"));
    try {
      const answer = await api.why({ keeper: keeper.name }, stop.signal);
      fill(place, reasons(answer));
    } catch (error) {
      if (error.name !== "AbortError") fill(place, failed(error, load));
    }
  };
  if (mayAskWhy()) load();
  const labels = Object.entries(keeper.labels || {}).map(([key, value]) => `${key}=${value}`).join("  ");
  return ask(`Keeper ${keeper.name}`, (close) => [
    place,
    h("dl", { class: "facts" }, [["Identity", h("code", null, id)], ["Address", `${keeper.host}, ports ${keeper.ports.join(", ")}`], ["Labels", labels && name(labels)],
      ["Processes", keeper.pids && keeper.pids.join(", ")]].filter(([, text]) => text).map(([term, text]) => [h("dt", null, term), h("dd", null, text)])),
    h("div", { class: "feet" }, mayAskWhy() && button({ icon: "again", text: "Ask again", on: load }), button({ text: "Close", kind: "main", autofocus: true, on: () => close(null) })),
  ], { wide: true }).finally(() => stop.abort());
}
