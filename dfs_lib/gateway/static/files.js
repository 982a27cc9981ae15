// The view of files: where one is, what is there, what one may do with it.

import { button, calmly, fill, h, icon, name, setText } from "./dom.js";
import * as format from "./format.js";
import * as actions from "./actions.js";
import { Details } from "./details.js";
import { dropped, isFileDrag, picked } from "./drop.js";
import { Listing } from "./listing.js";
import { live, on } from "./live.js";
import { home, mayWrite } from "./session.js";
import { Table } from "./table.js";
import { empty, failed, loading, menu, say, tell } from "./ui.js";
import { uploads } from "./uploads.js";

const SEARCH_PAUSE_MS = 250;
const SLOW_MS = 150;
// A longer listing is not read again by itself: each time would be so many pages.
const MOST_FOLLOWED = 3_000;

/** The view; returns what takes a further address. */
export function showFiles(place, route, signal) {
  const view = new FilesView(place, signal);
  view.go(route);
  return (to) => view.go(to);
}

class FilesView {
  constructor(place, signal) {
    this.signal = signal;
    this.sort = { key: "name", isDescending: false };
    this.listing = null;
    this.crumbs = h("nav", { class: "crumbs", "aria-label": "Folder" });
    this.search = h("input", { type: "search", id: "search", autocomplete: "off", spellcheck: "false", "aria-label": "Search in this folder and below",
                               placeholder: "Search", on: { input: () => this.searched(), keydown: (event) => this.searchKey(event) } });
    this.bar = h("div", { class: "bar", role: "toolbar", "aria-label": "Actions" });
    this.body = h("div", { class: "listing" });
    this.note = h("p", { class: "note", role: "status" });
    this.more = h("div", { class: "more" });
    this.details = new Details(this);
    this.filePicker = this.picker("file-picker", { multiple: true }, "Files to upload");
    this.folderPicker = this.picker("folder-picker", { webkitdirectory: true, multiple: true }, "Folder to upload");
    this.veil = h("div", { class: "veil", "aria-hidden": "true", hidden: true });
    fill(place,
      h("h1", { class: "quiet" }, "Files"),
      h("div", { class: "head" }, this.crumbs, h("div", { class: "search" }, icon("search"), this.search, h("kbd", { "aria-hidden": "true" }, "/"))),
      this.bar,
      h("div", { class: "split" }, h("div", { class: "left" }, this.body, this.note, this.more), this.details.element),
      this.filePicker, this.folderPicker, this.veil);
    this.watch();
  }

  picker(id, attributes, label) {
    const input = h("input", { type: "file", id, class: "quiet", tabindex: "-1", "aria-hidden": "true", "aria-label": label, ...attributes });
    input.addEventListener("change", () => {
      const found = picked(input.files);
      input.value = "";
      this.upload(found);
    });
    return input;
  }

  watch() {
    const signal = this.signal;
    document.addEventListener("keydown", (event) => this.key(event), { signal });
    let deep = 0;
    document.addEventListener("dragenter", (event) => { if (isFileDrag(event) && (deep += 1) === 1) this.lower(); }, { signal });
    document.addEventListener("dragleave", (event) => { if (isFileDrag(event) && (deep = Math.max(0, deep - 1)) === 0) this.veil.hidden = true; }, { signal });
    document.addEventListener("dragover", (event) => {
      if (!isFileDrag(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = this.mayWrite ? "copy" : "none";
    }, { signal });
    document.addEventListener("drop", (event) => {
      if (!isFileDrag(event)) return;
      event.preventDefault();
      deep = 0;
      this.veil.hidden = true;
      if (!this.mayWrite) return;
      // What was dropped has to be taken before this handler returns: a browser forgets it then.
      dropped(event.dataTransfer).then((found) => this.upload(found), (error) => tell(error, "That could not be read."));
    }, { signal });
    const again = calmly(() => { if (!signal.aborted) this.listing.refresh(); }, 1_500);
    uploads.addEventListener("stored", (event) => { if (format.isBelow(event.path, this.path)) again(); }, { signal });
    // What others do shows by the cluster's totals; a file short of copies is looked at until it has them.
    const totals = () => `${live.status.files} ${live.status.directories} ${live.status.bytes}`;
    let known = live.status && totals();
    const check = calmly(() => {
      if (signal.aborted || !live.status || this.listing.entries.size > MOST_FOLLOWED) return;
      if (known !== totals() || this.listing.hasShort) this.listing.refresh();
      known = totals();
    }, 2_000);
    on("status", check, signal);
    let wasLost = false;
    on("state", () => {
      if (live.state === "live" && wasLost) this.listing.error ? this.listing.load() : this.listing.refresh();
      wasLost = live.state === "lost";
    }, signal);
    this.seesEnd = new IntersectionObserver((seen) => {
      if (seen.some((each) => each.isIntersecting) && this.listing && !this.listing.error) this.listing.more();
    }, { rootMargin: "600px" });
    this.seesEnd.observe(this.more);
    signal.addEventListener("abort", () => {
      this.listing.stop();
      this.seesEnd.disconnect();
      this.details.stop();
    });
  }

  get mayWrite() {
    return mayWrite(this.path);
  }

  // -- where ----------------------------------------------------------------------------------------------------------
  go({ path, find }) {
    const isSame = this.listing && this.path === path, came = this.path;
    const takesFocus = !isSame && this.listing !== null && (this.body.contains(document.activeElement) || this.crumbs.contains(document.activeElement));
    if (isSame && this.find === find) return;
    if (this.listing) this.listing.stop();
    Object.assign(this, { path, find, isNew: true });
    if (!isSame) {
      this.details.close(false);
      this.paintCrumbs();
      window.scrollTo(0, 0);
    }
    if (document.activeElement !== this.search) this.search.value = find;
    this.search.setAttribute("aria-label", path === "/" ? "Search everywhere" : "Search in this folder and below");
    this.table = new Table({
      open: (entry) => this.open(entry), rename: (entry) => this.rename(entry), remove: (entries) => this.remove(entries),
      details: (entry) => this.details.show(entry, this.table.linkOf(entry.path)), menu: (entries, anchor) => this.menu(entries, anchor), up: () => this.up(),
      sort: (key) => this.sortBy(key), marks: () => this.paintBar(),
    }, { showsPlace: Boolean(find), caption: find ? `Found below ${path}` : `Files in ${path}` });
    this.wantsFocus = takesFocus ? (format.parent(came) === path ? came : "") : null;
    this.listing = new Listing(path, find, () => this.paint());
    this.paintBar();
    // Until it is there the old folder's rows stand, so that nothing flickers; they take no more clicks.
    this.body.setAttribute("aria-busy", "true");
    this.listing.load().then(() => { if (this.sort.key !== "name") this.listing.rest(); });
  }

  up() {
    if (this.path !== "/" && this.path !== home()) location.hash = format.folderLink(format.parent(this.path));
  }

  open(entry) {
    if (entry.type === "dir") location.hash = format.folderLink(entry.path);
    else this.details.show(entry, this.table.linkOf(entry.path));
  }

  paintCrumbs() {
    const top = home(), list = h("ol"), parts = this.path.slice(top === "/" ? 0 : top.length).split("/").filter(Boolean);
    const crumb = (text, path, isLast) => h("li", null,
      isLast ? h("span", { "aria-current": "page" }, text) : h("a", { href: format.folderLink(path) }, text));
    list.append(crumb(top === "/" ? "All files" : name(format.base(top)), top, parts.length === 0));
    parts.forEach((part, n) => list.append(crumb(name(part), format.join(top, parts.slice(0, n + 1).join("/")), n === parts.length - 1)));
    fill(this.crumbs, list);
    list.scrollLeft = list.scrollWidth;
  }

  // -- what is there --------------------------------------------------------------------------------------------------
  paint() {
    const listing = this.listing;
    if (this.signal.aborted) return;
    clearTimeout(this.slowTimer);
    if (listing.isKnown || listing.error) this.body.removeAttribute("aria-busy");
    const isGone = listing.error && (listing.error.status === 404 || listing.error.code === "not_directory");
    this.bar.hidden = Boolean(isGone);
    if (isGone) fill(this.body, this.gone());
    else if (listing.error && !listing.isKnown) fill(this.body, failed(listing.error, () => listing.load()));
    else if (!listing.isKnown) {
      this.slowTimer = setTimeout(() => { if (!listing.isKnown) fill(this.body, loading(this.find ? "Searching…" : "Loading…")); }, SLOW_MS);
      return;
    } else if (listing.entries.size === 0) fill(this.body, this.nothing());
    else {
      this.table.show(listing.sorted(this.sort.key, this.sort.isDescending), this.sort.key, this.sort.isDescending);
      if (this.table.element.parentNode !== this.body) fill(this.body, this.table.element);
    }
    this.paintNote();
    this.paintBar();
    this.details.refresh(this.table.rows);
    if (this.isNew && listing.isKnown) {
      this.isNew = false;
      if (this.wantsFocus !== null) this.table.focus(this.wantsFocus);
      if (this.find || this.wantsFocus !== null) say(this.note.textContent || `${listing.entries.size} entries`);
    }
  }

  gone() {
    return empty("folder", "This folder is not there.", "It may have been renamed or deleted meanwhile.",
      this.path !== home() && button({ icon: "up", text: "One folder up", kind: "main", on: () => this.up() }),
      button({ icon: "again", text: "Look again", on: () => this.listing.load() }));
  }

  nothing() {
    if (this.find) return empty("search", "Nothing of that name.", "* stands for any letters: *.pdf. The search looks in this folder and all below.");
    if (!this.mayWrite) return empty("folder", "This folder is empty.", "");
    return empty("upload", "This folder is empty.", "Drop files or folders here, or choose them.",
      button({ icon: "upload", text: "Upload files", kind: "main", on: () => this.filePicker.click() }),
      button({ icon: "folder-plus", text: "New folder", on: () => this.makeFolder() }));
  }

  paintNote() {
    const listing = this.listing, entries = [...listing.entries.values()], folders = entries.filter((entry) => entry.type === "dir").length;
    const files = entries.length - folders, bytes = entries.reduce((sum, entry) => sum + (entry.type === "file" ? entry.size : 0), 0);
    const words = [folders && format.count(folders, "folder"), files && `${format.count(files, "file")}, ${format.size(bytes)}`].filter(Boolean).join(", ");
    let text = words;
    if (this.find) text = entries.length ? `Found: ${words}${listing.isTruncated ? "; there is more: a longer word finds less" : ""}` : "";
    else if (listing.next) text = `The first ${words}${this.sort.key === "name" ? "" : ", sorted among themselves"}; more as you scroll`;
    setText(this.note, text);
    fill(this.more, listing.error && listing.isKnown && listing.error.status !== 404 ? failed(listing.error, () => listing.more())
      : listing.isLoading && listing.isKnown && loading("Loading more…"));
  }

  sortBy(key) {
    this.sort = { key, isDescending: this.sort.key === key ? !this.sort.isDescending : key === "size" || key === "mtime" };
    this.paint();
    if (key !== "name") this.listing.rest();
  }

  // -- what one may do ------------------------------------------------------------------------------------------------
  paintBar() {
    const chosen = this.table.chosen(), told = `${this.path} ${this.mayWrite} ${chosen.map((entry) => entry.path).join("\n")}`;
    if (this.barTold === told) return;
    this.barTold = told;
    this.bar.classList.toggle("choosing", chosen.length > 0);
    if (chosen.length) {
      const only = chosen.length === 1 ? chosen[0] : null;
      fill(this.bar, h("span", { class: "chosen" }, `${format.number(chosen.length)} marked`),
        only && h("a", { class: "button", href: actions.downloadUrl(only), download: "" }, icon("download"), h("span", null, "Download")),
        this.mayWrite && only && button({ icon: "rename", text: "Rename", on: () => this.rename(only) }),
        this.mayWrite && button({ icon: "move", text: "Move", on: () => this.move(chosen) }),
        this.mayWrite && button({ icon: "trash", text: "Delete", kind: "danger", on: () => this.remove(chosen) }),
        h("span", { class: "gap" }),
        button({ icon: "close", text: "Unmark", kind: "plain", on: () => { this.table.mark([]); this.table.focus(); } }));
      return;
    }
    const more = button({ icon: "chevron-down", label: "More ways to upload", kind: "main", "aria-haspopup": "menu", on: () => menu(more, [
      { text: "Files…", icon: "upload", run: () => this.filePicker.click() },
      { text: "A folder…", icon: "folder-up", run: () => this.folderPicker.click() },
    ], "Upload") });
    fill(this.bar, this.mayWrite && [
      h("span", { class: "joined" }, button({ icon: "upload", text: "Upload", kind: "main", id: "upload", on: () => this.filePicker.click() }), more),
      button({ icon: "folder-plus", text: "New folder", label: "New folder", id: "new-folder", on: () => this.makeFolder() }),
    ], h("span", { class: "gap" }),
    h("a", { class: "button plain", href: format.fileUrl(this.path, "?zip=1"), download: "", title: "Download this folder as a zip" }, icon("download"), h("span", null, "Download as zip")));
  }

  menu(entries, anchor) {
    const [entry] = entries, only = entries.length === 1, writes = entries.every((each) => mayWrite(each.path));
    menu(anchor, [
      only && entry.type === "dir" && { text: "Open", icon: "folder", run: () => this.open(entry) },
      only && entry.type === "file" && { text: "Open in a new tab", icon: "open", href: format.fileUrl(entry.path), target: "_blank" },
      only && { text: entry.type === "dir" ? "Download as zip" : "Download", icon: "download", href: actions.downloadUrl(entry), download: "" },
      only && { text: "Details", icon: "info", run: () => this.details.show(entry, this.table.linkOf(entry.path)) },
      writes && null,
      writes && only && { text: "Rename…", icon: "rename", run: () => this.rename(entry) },
      writes && { text: only ? "Move…" : `Move ${entries.length}…`, icon: "move", run: () => this.move(entries) },
      writes && null,
      writes && { text: only ? "Delete…" : `Delete ${entries.length}…`, icon: "trash", kind: "danger", run: () => this.remove(entries) },
    ].filter((item) => item !== false), "Actions");
  }

  /** The row to come back to after a dialog: of this path, or what stands in its place. */
  back(path) {
    return () => this.table.linkOf(path) || this.table.linkOf(this.table.at) || this.search;
  }

  async rename(entry) {
    if (!mayWrite(entry.path)) return;
    const to = await actions.rename(entry, (path) => this.listing.entries.has(path), this.back(entry.path));
    if (!to) return;
    this.details.close(false);
    await this.listing.refresh();
    this.table.focus(to);
  }

  async move(entries) {
    const moved = await actions.move(entries, this.path, this.back(entries[0].path));
    if (!moved) return;
    this.table.mark([]);
    this.details.close(false);
    await this.listing.refresh();
    this.table.focus();
  }

  async remove(entries) {
    if (!entries.every((entry) => mayWrite(entry.path))) return;
    const isDone = await actions.remove(entries, this.back(entries[0].path));
    if (!isDone) return;
    this.details.close(false);
    await this.listing.refresh();
    this.table.focus();
  }

  async makeFolder() {
    const made = await actions.makeFolder(this.path, (path) => this.listing.entries.has(path));
    if (!made) return;
    await this.listing.refresh();
    this.table.focus(made);
  }

  async upload(found) {
    if (!this.mayWrite) return;
    try {
      await uploads.offer(found, this.path);
    } catch (error) {
      tell(error, "The upload could not begin.");
    }
  }

  lower() {
    fill(this.veil, h("div", null, icon(this.mayWrite ? "upload" : "info"),
      h("p", null, this.mayWrite ? ["Drop to upload into ", name(this.path === "/" ? "all files" : format.base(this.path))] : "You may read here, not write.")));
    this.veil.hidden = false;
  }

  // -- search and keys ------------------------------------------------------------------------------------------------
  searched() {
    clearTimeout(this.searchTimer);
    this.searchTimer = setTimeout(() => {
      if (!this.signal.aborted) location.replace(format.folderLink(this.path, this.search.value.trim()));
    }, SEARCH_PAUSE_MS);
  }

  searchKey(event) {
    if (event.key === "Escape") {
      this.search.value = "";
      this.searched();
      this.table.focus();
    } else if (event.key === "ArrowDown" || event.key === "Enter") this.table.focus();
    else return;
    event.preventDefault();
  }

  key(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open], .menu")) return;
    const isTyping = event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key === "Escape" && this.details.isOpen) this.details.close();
    else if (isTyping) return;
    else if (event.key === "/") this.search.focus();
    else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && event.target === document.body) this.table.focus();
    else return;
    event.preventDefault();
  }
}
