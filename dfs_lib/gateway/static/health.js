// How many blocks have how many good copies left: a bar, and the same in words and numbers.

import { fill, h, setText, svg } from "./dom.js";
import * as format from "./format.js";

const WIDTH = 1000, HEIGHT = 20, GAP = 3;
// A single block in ten million must be seen: no part is narrower than this.
const LEAST = 10;

export class HealthPicture {
  constructor() {
    this.none = h("p", { class: "hint" }, "No files yet.");
    this.picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", class: "health-bar" });
    this.legend = h("ul", { class: "legend" });
    this.words = h("p", { class: "hint" });
    this.figure = h("figure", null, this.picture, this.legend, this.words);
    this.element = h("div", null, this.none, this.figure);
  }

  /** health: [{have, blocks, about}], have null for blocks that have all the copies they want. */
  paint({ health, files, copies }) {
    const rows = (health || []).map((row) => ({ ...row, level: levelOf(row.have) }));
    const known = rows.filter((row) => row.have !== null);
    // What nobody is short of shows as nothing: every rung below the copies wanted has its place in the legend.
    for (let have = 0; have < copies; have += 1) if (!known.some((row) => row.have === have)) known.push({ have, blocks: 0, about: false, level: levelOf(have) });
    known.sort((a, b) => b.have - a.have);
    const ladder = [...rows.filter((row) => row.have === null), ...known], parts = ladder.filter((row) => row.blocks > 0);
    this.none.hidden = files > 0;
    this.figure.hidden = files === 0;
    const told = JSON.stringify(ladder);
    if (told === this.told) return;
    this.told = told;
    this.picture.setAttribute("aria-label", parts.map((row) => `${count(row)} ${wordsOf(row)}`).join(", ") || "no blocks");
    this.draw(parts);
    fill(this.legend, ladder.map((row) => h("li", { class: `${row.level}${row.blocks ? "" : " zero"}` }, h("i", { "aria-hidden": "true" }),
      h("span", null, labelOf(row)), h("b", null, `${row.about ? "about " : ""}${format.number(row.blocks)}`))));
    const short = known.reduce((sum, row) => sum + row.blocks, 0);
    setText(this.words, short ? "Blocks, by the good copies they have left." : "Every block has all the copies that are wanted.");
  }

  draw(parts) {
    const all = parts.reduce((sum, row) => sum + row.blocks, 0), room = WIDTH - GAP * (parts.length - 1);
    const widths = parts.map((row) => Math.max(LEAST, (row.blocks / all) * room)), scale = room / widths.reduce((sum, width) => sum + width, 0);
    let x = 0;
    fill(this.picture, parts.map((row, n) => {
      const width = widths[n] * scale, shape = svg("rect", { x, y: 0, width, height: HEIGHT, class: row.level });
      x += width + GAP;
      return shape;
    }));
  }
}

/** A class for a colour: whole, short, hanging by one copy, gone. */
function levelOf(have) {
  return have === null ? "whole" : have === 0 ? "none" : have === 1 ? "one" : "some";
}

function labelOf({ have }) {
  return have === null ? "all copies" : have === 0 ? "no copy" : `${format.count(have, "copy", "copies")} left`;
}

function count({ blocks, about }) {
  return `${about ? "about " : ""}${format.count(blocks, "block")}`;
}

function wordsOf({ have }) {
  return have === null ? "with all copies" : have === 0 ? "without a copy" : `with ${format.count(have, "copy", "copies")} left`;
}
