// The question about names that are there already: one for the whole lot.

import { button, h, icon, name } from "./dom.js";
import * as format from "./format.js";
import { ask } from "./ui.js";

const LISTED = 6;

/** there: [{file, path, kind}]. Answers "replace", "skip", "both", or null: nothing at all. */
export function askAboutNames(there) {
  const folders = there.filter((each) => each.kind === "dir").length, isOne = there.length === 1;
  return ask(isOne ? "This name is there already" : `${format.number(there.length)} names are there already`, (close) => [
    h("ul", { class: "names" }, there.slice(0, LISTED).map((each) =>
      h("li", null, icon(each.kind === "dir" ? "folder" : "file", each.kind), name(each.path), each.kind === "file" && h("small", null, format.size(each.file.size)))),
    there.length > LISTED && h("li", { class: "hint" }, `and ${format.number(there.length - LISTED)} more`)),
    h("p", { class: "hint" }, "Replacing makes a new version: whoever reads the old one now reads it to its end.",
      folders > 0 && " A folder is never replaced by a file: that file gets another name."),
    h("div", { class: "feet" }, button({ text: "Cancel", on: () => close(null) }),
      button({ text: isOne ? "Skip" : "Skip these", on: () => close("skip") }),
      button({ text: "Keep both", on: () => close("both") }),
      button({ text: isOne ? "Replace" : "Replace all", kind: "main", autofocus: true, on: () => close("replace") })),
  ], { wide: true });
}
