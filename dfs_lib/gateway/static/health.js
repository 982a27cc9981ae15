// How many files have how many of the copies they want: a bar, and the same in words and numbers.

import { fill, h, reconcile, setText, svg } from "./dom.js";
import * as format from "./format.js";

const WIDTH = 1000, HEIGHT = 20, GAP = 3;
// A single file in ten million must be seen: no part is narrower than this.
const LEAST = 10;

export class HealthPicture {
  constructor() {
    this.groups = h("div", { class: "health-groups" });
    this.none = h("p", { class: "hint" }, "No files yet.");
    this.element = h("div", null, this.none, this.groups);
  }

  /** health: [{wanted, have, files}]; without it the words about blocks that every status has. */
  paint({ health, files, under_replicated: short, missing }) {
    const wanted = new Map();
    for (const each of health || []) {
      if (!each.files) continue;
      if (!wanted.has(each.wanted)) wanted.set(each.wanted, new Map());
      const group = wanted.get(each.wanted), have = Math.min(each.have, each.wanted);
      group.set(have, (group.get(have) || 0) + each.files);
    }
    const groups = [...wanted].sort((a, b) => sum(b[1]) - sum(a[1])).map(([want, counts]) => ({ want, counts }));
    this.none.hidden = groups.length > 0;
    setText(this.none, !files ? "No files yet." : missing || short ? [missing && `${format.count(missing, "block")} without any copy now`,
      short && `${format.count(short, "block")} short of copies`].filter(Boolean).join(", ") + "." : "Every block has its copies.");
    reconcile(this.groups, groups, (group) => group.want, makeGroup, (element, group) => updateGroup(element, group, groups.length > 1));
  }
}

const sum = (counts) => [...counts.values()].reduce((all, n) => all + n, 0);

/** A class for a colour: gone, hanging by one copy, short, whole. */
export function levelOf(have, want) {
  return have >= want ? "whole" : have === 0 ? "none" : have === 1 ? "one" : "some";
}

function makeGroup() {
  return h("figure", null, h("figcaption"),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", class: "health-bar" }), h("ul", { class: "legend" }));
}

function updateGroup(element, { want, counts }, showsTitle) {
  const [title, picture, legend] = element.children, all = sum(counts);
  const rows = Array.from({ length: want + 1 }, (_, n) => want - n).map((have) => ({ have, files: counts.get(have) || 0 }));
  const told = JSON.stringify(rows);
  title.hidden = !showsTitle;
  setText(title, `Files that want ${format.count(want, "copy", "copies")}`);
  if (element.dataset.told === told) return;
  element.dataset.told = told;
  const parts = rows.filter((row) => row.files > 0);
  picture.setAttribute("aria-label", parts.map((row) => `${format.count(row.files, "file")} with ${row.have} of ${want} copies`).join(", "));
  const room = WIDTH - GAP * (parts.length - 1), least = parts.map((row) => Math.max(LEAST, (row.files / all) * room));
  const scale = room / least.reduce((total, width) => total + width, 0);
  let x = 0;
  fill(picture, parts.map((row, n) => {
    const width = least[n] * scale, shape = svg("rect", { x, y: 0, width, height: HEIGHT, class: levelOf(row.have, want) });
    x += width + GAP;
    return shape;
  }));
  fill(legend, rows.map((row) => h("li", { class: `${levelOf(row.have, want)}${row.files ? "" : " zero"}` }, h("i", { "aria-hidden": "true" }),
    h("span", null, row.have === want ? `all ${want}` : row.have === 0 ? "no copy" : `${row.have} of ${want}`),
    h("b", null, format.number(row.files)))));
}
