// What is known of one file or folder: size, copies wanted and had, where they are, and why. A panel beside the table, a sheet on a phone.

import { api } from "./api.js";
import * as actions from "./actions.js";
import { button, fill, h, icon, name } from "./dom.js";
import * as format from "./format.js";
import { keepers, on } from "./live.js";
import { mayAskWhy, mayWrite } from "./session.js";
import { copiesShown } from "./table.js";
import { failed, loading, say, tell, toast } from "./ui.js";

const BLOCKS_SHOWN = 24;
const MOST_COPIES = 64;

export class Details {
  constructor(view) {
    this.view = view;
    this.entry = null;
    this.element = h("aside", { class: "details", "aria-label": "Details", hidden: true });
    this.stopper = new AbortController();
    on("status", () => { if (this.isOpen) this.paintKeepers(); }, view.signal);
  }

  get isOpen() {
    return this.entry !== null;
  }

  stop() {
    this.stopper.abort();
  }

  /** Shows an entry; `origin` has the focus back when the panel closes. */
  show(entry, origin) {
    this.stop();
    this.stopper = new AbortController();
    this.entry = entry;
    this.origin = origin;
    this.told = JSON.stringify(entry);
    this.element.hidden = false;
    document.body.classList.add("has-details");
    this.paint();
    this.element.querySelector("a.main, .button.main").focus({ preventScroll: true });
    say(`Details of ${entry.name}`);
  }

  close(returnsFocus = true) {
    if (!this.isOpen) return;
    this.stop();
    const hadFocus = this.element.contains(document.activeElement), path = this.entry.path;
    this.entry = null;
    this.element.hidden = true;
    document.body.classList.remove("has-details");
    fill(this.element);
    if (returnsFocus && (hadFocus || document.activeElement === document.body)) {
      (this.view.table.linkOf(path) || this.origin || this.view.search).focus({ preventScroll: true });
    }
  }

  /** The listing was read again: shows what changed. */
  refresh(entries) {
    if (!this.isOpen) return;
    const entry = entries.find((each) => each.path === this.entry.path);
    if (!entry || JSON.stringify(entry) === this.told || this.element.contains(document.activeElement && document.activeElement.closest("form"))) return;
    this.entry = entry;
    this.told = JSON.stringify(entry);
    this.stop();
    this.stopper = new AbortController();
    const hadFocus = this.element.contains(document.activeElement);
    this.paint();
    if (hadFocus) this.element.querySelector("a.main, .button.main").focus({ preventScroll: true });
  }

  paint() {
    const entry = this.entry, isFile = entry.type === "file", writes = mayWrite(entry.path);
    this.facts = h("dl", { class: "facts" });
    this.where = h("section", { class: "where" });
    this.reasons = h("section", { class: "why" });
    fill(this.element,
      h("div", { class: "crown" }, icon(isFile ? "file" : "folder", entry.type), h("h2", null, name(entry.name)),
        button({ icon: "close", label: "Close details", kind: "plain", on: () => this.close() })),
      h("div", { class: "row" },
        h("a", { class: "button main", href: actions.downloadUrl(entry), download: "" }, icon("download"), h("span", null, isFile ? "Download" : "Download as zip")),
        isFile && h("a", { class: "button square", href: format.fileUrl(entry.path), target: "_blank", rel: "noopener", "aria-label": "Open in a new tab", title: "Open in a new tab" }, icon("open")),
        writes && button({ icon: "rename", label: "Rename", on: () => this.view.rename(entry) }),
        writes && button({ icon: "move", label: "Move", on: () => this.view.move([entry]) }),
        writes && button({ icon: "trash", label: "Delete", kind: "danger", on: () => this.view.remove([entry]) })),
      this.facts, this.where, this.reasons);
    this.paintFacts();
    if (isFile) {
      this.loadBlocks();
      this.loadReasons();
    } else this.loadUsage();
  }

  paintFacts(usage = null) {
    const entry = this.entry, isFile = entry.type === "file";
    const rows = [["Path", h("span", { class: "path" }, name(entry.path))]];
    if (isFile) rows.push(["Size", h("span", null, format.size(entry.size), entry.size >= 1000 && h("small", null, ` ${format.count(entry.size, "byte")}`))]);
    else rows.push(["Holds", usage ? `${format.count(usage.files, "file")} in ${format.count(usage.directories, "folder")}, ${format.size(usage.bytes)}` : "Counting…"]);
    if (entry.mtime) rows.push(["Changed", format.time(entry.mtime, true)]);
    if (isFile) rows.push(["Version", String(entry.version)], ["Copies", copiesShown(entry)]);
    if (isFile && mayWrite(entry.path)) rows.push(["Wanted", this.copiesForm()]);
    fill(this.facts, rows.map(([term, text]) => [h("dt", null, term), h("dd", null, text)]));
  }

  copiesForm() {
    const entry = this.entry, input = h("input", { type: "number", min: "1", max: String(MOST_COPIES), inputmode: "numeric", "aria-label": "Copies wanted" });
    input.value = String(entry.copies_wanted);
    const set = button({ text: "Set", kind: "small", type: "submit" });
    const changed = () => { set.disabled = !input.checkValidity() || Number(input.value) === entry.copies_wanted; };
    const step = (by) => { input.value = String(Math.min(MOST_COPIES, Math.max(1, Number(input.value || 1) + by))); changed(); };
    input.addEventListener("input", changed);
    changed();
    return h("form", { class: "stepper", on: { submit: async (event) => {
      event.preventDefault();
      const wanted = Number(input.value);
      set.disabled = true;
      try {
        await api.copies(entry.path, wanted);
        toast(`${format.count(wanted, "copy", "copies")} wanted. ${wanted > entry.copies_have ? "The rest is made in the background." : "Surplus goes in the background."}`);
        input.blur();
        await this.view.listing.refresh();
      } catch (error) {
        tell(error);
        changed();
      }
    } } },
    button({ icon: "minus", label: "One copy less", kind: "small", on: () => step(-1) }), input,
    button({ icon: "plus", label: "One copy more", kind: "small", on: () => step(1) }), set);
  }

  async loadUsage() {
    const signal = this.stopper.signal;
    try {
      const usage = await api.usage(this.entry.path, signal);
      if (!signal.aborted) this.paintFacts(usage);
    } catch (error) {
      if (!signal.aborted) fill(this.where, failed(error, () => this.loadUsage()));
    }
  }

  async loadBlocks() {
    const signal = this.stopper.signal;
    fill(this.where, h("h3", null, "Where it is"), loading());
    try {
      const answer = await api.stat(this.entry.path, signal);
      if (signal.aborted) return;
      this.blocks = answer.blocks || [];
      this.showsAll = false;
      this.paintKeepers();
    } catch (error) {
      if (!signal.aborted) fill(this.where, h("h3", null, "Where it is"), failed(error, () => this.loadBlocks()));
    }
  }

  /** Blocks and the keepers that have them, in the colours of what the keepers are now. */
  paintKeepers() {
    if (this.entry.type !== "file" || !this.blocks || !this.where.querySelector("h3")) return;
    const known = keepers(), chip = ({ keeper_id: id, name: called }) => {
      const keeper = known.get(id), word = keeper ? keeper.word : "live";
      return h("li", { class: `chip ${word}` }, name(called || id.slice(0, 8)), word !== "live" && h("small", null, word));
    };
    const shown = this.showsAll ? this.blocks : this.blocks.slice(0, BLOCKS_SHOWN);
    const told = JSON.stringify([this.entry.path, this.showsAll, shown.map((block) => block.keepers.map((each) => [each, (known.get(each.keeper_id) || {}).word]))]);
    if (told === this.where.dataset.told && this.where.querySelector(".blocks")) return;
    this.where.dataset.told = told;
    fill(this.where, h("h3", null, "Where it is", this.blocks.length > 1 && h("small", null, ` ${format.count(this.blocks.length, "block")}`)),
      this.blocks.length === 0 ? h("p", { class: "hint" }, "An empty file has no blocks: it is in the catalog alone.")
        : h("ul", { class: "blocks" }, shown.map((block) => h("li", null,
          h("span", { class: "block" }, `Block ${block.index}`, h("small", null, format.size(block.size))),
          block.keepers.length ? h("ul", { class: "chips", "aria-label": "Copies on" }, block.keepers.map(chip)) : h("span", { class: "fault" }, "no copy")))),
      shown.length < this.blocks.length && button({ text: `All ${this.blocks.length} blocks`, kind: "small", on: () => { this.showsAll = true; this.paintKeepers(); } }));
  }

  async loadReasons() {
    if (!mayAskWhy()) return;
    const signal = this.stopper.signal;
    try {
      const answer = await api.why({ path: this.entry.path }, signal);
      if (!signal.aborted) fill(this.reasons, h("h3", null, "Why"), reasons(answer));
    } catch (error) {
      if (!signal.aborted) fill(this.reasons, h("h3", null, "Why"), h("p", { class: "hint" }, error.message));
    }
  }
}

/** What `why` says, as a list. */
export function reasons(answer) {
  const soon = answer.next_try_s;
  return [h("ul", { class: "reasons" }, (answer.sentences || []).map((sentence) => h("li", null, name(sentence)))),
    typeof soon === "number" && h("p", { class: "hint" }, soon > 0 ? `Looked at again in ${format.duration(soon)}.` : "Looked at again at once.")];
}
