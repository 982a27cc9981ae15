// What a folder holds, page by page, or what a search found; sorted as the reader likes. No element of the page.

import { api } from "./api.js";

const PAGE = 1_000;
// The most that is fetched by itself: to sort by size or time a listing has to be there whole.
const MOST_FOR_SORTING = 20_000;
const NAMES = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

const ORDERS = {
  name: (a, b) => NAMES.compare(a.name, b.name),
  size: (a, b) => a.size - b.size,
  mtime: (a, b) => (a.mtime < b.mtime ? -1 : a.mtime > b.mtime ? 1 : 0),
  copies: (a, b) => (a.copies_have - a.copies_wanted) - (b.copies_have - b.copies_wanted) || a.copies_wanted - b.copies_wanted,
};

export class Listing {
  /** changed(): called after each change of what is known. */
  constructor(path, find, changed) {
    Object.assign(this, { path, find, changed, entries: new Map(), next: null, error: null, isLoading: false, isTruncated: false, isKnown: false });
    this.stopper = new AbortController();
  }

  stop() {
    this.stopper.abort();
  }

  /** The first page. */
  async load() {
    await this.guarded(async (signal) => {
      this.take(await this.page(null, signal), true);
    });
  }

  /** One page more. */
  async more() {
    if (this.next === null || this.isLoading) return;
    await this.guarded(async (signal) => this.take(await this.page(this.next, signal)));
  }

  /** Pages until all is there, or as much as anybody sorts. */
  async rest() {
    while (this.next !== null && !this.error && this.entries.size < MOST_FOR_SORTING && !this.stopper.signal.aborted) {
      if (this.isLoading) return;
      await this.more();
    }
  }

  /** The same stretch again: what came, went or changed meanwhile. Errors leave what was known. */
  async refresh() {
    if (this.isLoading || !this.isKnown) return;
    const signal = this.stopper.signal, wanted = this.entries.size;
    try {
      const fresh = new Map();
      let page = await this.page(null, signal);
      for (;;) {
        for (const entry of page.entries) fresh.set(entry.path, entry);
        if (!page.next || fresh.size >= wanted) break;
        page = await this.page(page.next, signal);
      }
      this.entries = fresh;
      this.next = page.next || null;
      this.isTruncated = Boolean(page.truncated);
      this.changed();
    } catch (error) {
      if (error.status === 404) {
        this.error = error;
        this.changed();
      }
    }
  }

  /** [entry]: folders first, then by the key. */
  sorted(key, isDescending) {
    const compare = ORDERS[key], turn = isDescending ? -1 : 1;
    return [...this.entries.values()].sort((a, b) =>
      (a.type === b.type ? 0 : a.type === "dir" ? -1 : 1)
      || (a.type === "dir" && key !== "name" && key !== "mtime" ? ORDERS.name(a, b) : turn * compare(a, b) || ORDERS.name(a, b)));
  }

  get hasShort() {
    for (const entry of this.entries.values()) if (entry.type === "file" && entry.copies_have < entry.copies_wanted) return true;
    return false;
  }

  // -- inside ---------------------------------------------------------------------------------------------------------
  async page(after, signal) {
    if (this.find) return { next: null, ...(await api.find(this.path, this.find, signal)) };
    return api.list(this.path, after, signal, PAGE);
  }

  take(page, isFirst = false) {
    if (isFirst) this.entries = new Map();
    for (const entry of page.entries) this.entries.set(entry.path, entry);
    this.next = page.next || null;
    this.isTruncated = Boolean(page.truncated);
    this.isKnown = true;
  }

  async guarded(work) {
    const signal = this.stopper.signal;
    this.isLoading = true;
    this.error = null;
    this.changed();
    try {
      await work(signal);
    } catch (error) {
      if (signal.aborted) return;
      this.error = error;
    }
    this.isLoading = false;
    this.changed();
  }
}
