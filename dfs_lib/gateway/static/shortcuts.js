// The keys that the page knows, for whoever asks.

import { button, h } from "./dom.js";
import { ask } from "./ui.js";

const KEYS = [
  ["/", "search"], ["\u2191 \u2193", "go along the files"], ["Enter", "open a folder; details of a file"], ["Backspace", "one folder up"],
  ["Space", "mark a file"], ["Shift \u2191 \u2193", "mark several"], ["Ctrl A", "mark all"], ["i", "details"], ["F2", "rename"], ["Delete", "delete, after a question"],
  ["Shift F10", "all that can be done with a file"], ["Escape", "close, unmark"],
];

export function showShortcuts() {
  return ask("Keyboard", (close) => [
    h("dl", { class: "facts keys" }, KEYS.map(([key, what]) => [h("dt", null, h("kbd", null, key)), h("dd", null, what)])),
    h("div", { class: "feet" }, button({ text: "Close", kind: "main", autofocus: true, on: () => close(null) })),
  ]);
}
