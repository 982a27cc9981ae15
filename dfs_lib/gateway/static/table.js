// The table of files: rows, selection, and the keyboard. One row at a time is in the tab order (a roving tabindex on its link).
//
//   ↑ ↓ Home End PageUp PageDown   another row          Enter, click on the name   open
//   Space, the box                 mark a row           Shift with either          mark all between
//   F2 rename   Delete remove   i details   Shift+F10, ⋯ menu   Backspace one folder up   Escape unmark

import { button, fill, h, icon, name, reconcile, setText } from "./dom.js";
import * as format from "./format.js";
import { say } from "./ui.js";

const COLUMNS = [["name", "Name"], ["size", "Size"], ["mtime", "Changed"], ["copies", "Copies"]];
const PAGE_ROWS = 12;

/** "3/3" with a box for each copy; short of them in another colour and in words. */
export function copiesShown(entry) {
  const { copies_have: have, copies_wanted: wanted } = entry, level = have >= wanted ? "ok" : have === 0 ? "danger" : "warning";
  const boxes = Math.max(have, wanted) <= 6
    ? h("span", { class: "pips", "aria-hidden": "true" }, Array.from({ length: Math.max(have, wanted) }, (_, n) => h("i", { class: n < have ? "had" : "" })))
    : null;
  return h("span", { class: `copies ${level}`, title: `${have} of ${wanted} copies` }, boxes,
    h("span", { "aria-hidden": "true" }, `${have}/${wanted}`), h("span", { class: "quiet" }, `${have} of ${wanted} copies`));
}

export class Table {
  /** does: {open, rename, remove, details, menu, up, sort} of entries; showsPlace: whether rows tell their folder (a search). */
  constructor(does, { showsPlace, caption }) {
    this.does = does;
    this.showsPlace = showsPlace;
    this.rows = [];
    this.marked = new Set();
    this.at = null;      // path of the row in the tab order
    this.from = null;    // path where a stretch of marks begins
    this.all = h("input", { type: "checkbox", "aria-label": "Mark all", on: { change: () => this.mark(this.all.checked ? this.rows.map((row) => row.path) : []) } });
    this.heads = COLUMNS.map(([key, text]) => h("th", { role: "columnheader", scope: "col", class: key, data: { key } },
      h("button", { type: "button", class: "sort", on: { click: () => does.sort(key) } }, h("span", null, text), icon("up"))));
    this.body = h("tbody", { role: "rowgroup", on: { keydown: (event) => this.key(event), click: (event) => this.click(event), focusin: (event) => this.focused(event) } });
    this.element = h("table", { role: "table", class: `files ${showsPlace ? "found" : ""}`, "aria-label": caption },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
        h("th", { role: "columnheader", scope: "col", class: "pick" }, this.all), this.heads,
        h("th", { role: "columnheader", scope: "col", class: "act" }, h("span", { class: "quiet" }, "Actions")))), this.body);
  }

  /** Shows these entries in this order. */
  show(entries, key, isDescending) {
    const gone = this.rows.findIndex((row) => row.path === this.at);
    this.rows = entries;
    this.place = new Map(entries.map((entry, n) => [entry.path, n]));
    for (const path of [...this.marked]) if (!this.place.has(path)) this.marked.delete(path);
    const hadFocus = this.body.contains(document.activeElement);
    if (!this.place.has(this.at)) this.at = entries.length ? entries[Math.min(Math.max(gone, 0), entries.length - 1)].path : null;
    reconcile(this.body, entries, (entry) => entry.path, (entry) => this.make(entry), (row, entry) => this.update(row, entry));
    for (const head of this.heads) {
      head.setAttribute("aria-sort", head.dataset.key === key ? (isDescending ? "descending" : "ascending") : "none");
    }
    this.paintMarks();
    if (hadFocus && !this.body.contains(document.activeElement)) this.focus(this.at);
  }

  // -- rows -----------------------------------------------------------------------------------------------------------
  make(entry) {
    const link = h("a", { class: "link", tabindex: "-1", draggable: "false" }, icon(entry.type === "dir" ? "folder" : "file", entry.type), name(entry.name));
    link.title = entry.name.length > 40 ? entry.name : "";
    const row = h("tr", { role: "row", class: `entry ${entry.type}` },
      h("td", { role: "cell", class: "pick" }, h("input", { type: "checkbox", tabindex: "-1", "aria-label": `Mark ${entry.name}` })),
      h("th", { role: "rowheader", scope: "row", class: "name" }, link,
        this.showsPlace && h("a", { class: "place", tabindex: "-1", href: format.folderLink(format.parent(entry.path)) }, "in ", name(format.parent(entry.path)))),
      h("td", { role: "cell", class: "size" }), h("td", { role: "cell", class: "mtime" }), h("td", { role: "cell", class: "copies" }),
      h("td", { role: "cell", class: "act" }, button({ icon: "more", label: `More for ${entry.name}`, kind: "plain", tabindex: "-1", "aria-haspopup": "menu" })));
    row.path = entry.path;
    return row;
  }

  update(row, entry) {
    const [, title, size, mtime, copies] = row.children, isFile = entry.type === "file", link = title.firstChild;
    const href = isFile ? format.fileUrl(entry.path) : format.folderLink(entry.path);
    if (link.getAttribute("href") !== href) link.setAttribute("href", href);
    setText(size, isFile ? format.size(entry.size) : "");
    setText(mtime, format.time(entry.mtime));
    const told = isFile ? `${entry.copies_have}/${entry.copies_wanted}` : "";
    if (copies.dataset.told !== told) {
      copies.dataset.told = told;
      fill(copies, isFile && copiesShown(entry));
    }
    link.tabIndex = entry.path === this.at ? 0 : -1;
  }

  rowOf(path) {
    return this.place && this.place.has(path) ? this.body.children[this.place.get(path)] : null;
  }

  entryOf(path) {
    return this.place && this.place.has(path) ? this.rows[this.place.get(path)] : null;
  }

  linkOf(path) {
    const row = this.rowOf(path);
    return row && row.querySelector(".link");
  }

  /** Brings the focus to a row, the first when there is none of that path. */
  focus(path = null) {
    const link = this.linkOf(path) || this.linkOf(this.at) || this.linkOf(this.rows.length ? this.rows[0].path : null);
    if (link) link.focus();
  }

  rove(path) {
    const old = this.linkOf(this.at);
    if (old) old.tabIndex = -1;
    this.at = path;
    const now = this.linkOf(path);
    if (now) now.tabIndex = 0;
  }

  // -- marks ----------------------------------------------------------------------------------------------------------
  /** Exactly these rows are marked. */
  mark(paths) {
    this.marked = new Set(paths);
    this.paintMarks();
    this.does.marks(this.chosen());
    say(this.marked.size ? `${this.marked.size} marked` : "None marked");
  }

  toggle(path, isStretch) {
    const marked = new Set(this.marked);
    if (isStretch && this.place.has(this.from)) {
      const [first, last] = [this.place.get(this.from), this.place.get(path)].sort((a, b) => a - b);
      for (const entry of this.rows.slice(first, last + 1)) marked.add(entry.path);
    } else {
      if (!marked.delete(path)) marked.add(path);
      this.from = path;
    }
    this.mark(marked);
  }

  chosen() {
    return this.rows.filter((entry) => this.marked.has(entry.path));
  }

  /** What an action on a row is about: all that is marked when the row is among it, else the row. */
  subject(entry) {
    return this.marked.has(entry.path) ? this.chosen() : [entry];
  }

  paintMarks() {
    for (const row of this.body.children) {
      const isMarked = this.marked.has(row.path);
      row.classList.toggle("marked", isMarked);
      row.firstChild.firstChild.checked = isMarked;
    }
    this.all.checked = this.rows.length > 0 && this.marked.size === this.rows.length;
    this.all.indeterminate = this.marked.size > 0 && !this.all.checked;
    this.element.classList.toggle("has-marks", this.marked.size > 0);
  }

  // -- hands ----------------------------------------------------------------------------------------------------------
  focused(event) {
    const row = event.target.closest("tr");
    if (row && row.path !== this.at) this.rove(row.path);
  }

  click(event) {
    const row = event.target.closest("tr"), entry = row && this.entryOf(row.path);
    if (!entry) return;
    if (event.target.closest(".act button")) return this.does.menu(this.subject(entry), event.target.closest("button"));
    if (event.target.closest(".pick")) {
      this.toggle(entry.path, event.shiftKey);
      return undefined;
    }
    if (event.target.closest(".place")) return undefined;
    const isLink = event.target.closest(".link");
    if (isLink && (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0)) return undefined;
    if (!isLink && String(window.getSelection())) return undefined;
    event.preventDefault();
    if (isLink) this.does.open(entry);
    else this.does.details(entry);
    return undefined;
  }

  key(event) {
    const row = event.target.closest("tr"), entry = row && this.entryOf(row.path);
    if (!entry || event.altKey || ((event.ctrlKey || event.metaKey) && event.key !== "a")) return;
    const at = this.place.get(entry.path), last = this.rows.length - 1;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: last, PageDown: at + PAGE_ROWS, PageUp: at - PAGE_ROWS }[event.key];
    if (to !== undefined) {
      const next = this.rows[Math.min(Math.max(to, 0), last)].path;
      if (event.shiftKey) {
        if (!this.marked.has(entry.path)) this.toggle(entry.path, false);
        this.toggle(next, true);
      }
      this.focus(next);
    } else if (event.key === " " && event.target.matches(".link")) this.toggle(entry.path, event.shiftKey);
    else if (event.key === "F2") this.does.rename(entry);
    else if (event.key === "Delete") this.does.remove(this.subject(entry));
    else if (event.key === "i") this.does.details(entry);
    else if (event.key === "Backspace") this.does.up();
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) this.mark(this.rows.map((each) => each.path));
    else if (event.key === "ContextMenu" || (event.key === "F10" && event.shiftKey)) this.does.menu(this.subject(entry), row.querySelector(".act button"));
    else if (event.key === "Escape" && this.marked.size) this.mark([]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
