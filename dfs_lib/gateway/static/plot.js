// Bytes a second through the whole cluster over the last hour, read and written by clients and copied between keepers: axes with units, and the value under the pointer or the arrow keys.

import { fill, h, setText, svg } from "./dom.js";
import * as format from "./format.js";

const HEIGHT = 190, LEFT = 76, RIGHT = 12, TOP = 10, BOTTOM = 26;
// The plot begins with ten minutes and grows to an hour: [how long, a mark every so often, and where there is little room].
const SPANS_S = [[600, 120, 300], [1200, 300, 600], [1800, 300, 900], [3600, 900, 1800]];
const LEAST_RATE = 1_000_000;              // an idle cluster shows a flat line, not its noise
const AREAS = new Set(["read", "write"]);  // three on one another would be mud
const SERIES = [["read", "read"], ["write", "written"], ["copied", "copied between keepers"]];

export class ThroughputPlot {
  constructor(signal) {
    this.data = { step_s: 10, points: [], now: null };
    this.at = null;  // index of the point under the pointer
    this.values = new Map(SERIES.map(([key]) => [key, h("b")]));
    this.when = h("span", { class: "hint" }, "now");
    this.legend = h("p", { class: "plot-legend" }, SERIES.map(([key, word]) =>
      h("span", { class: key }, h("i", { "aria-hidden": "true" }), word, " ", this.values.get(key))), this.when);
    this.picture = svg("svg", { class: "plot", height: HEIGHT, "aria-hidden": "true" });
    this.frame = h("div", { class: "plot-frame", tabindex: "0", role: "slider", "aria-label": "Throughput of the last hour; the arrow keys go along it",
      "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0", on: {
        pointermove: (event) => this.point(event), pointerdown: (event) => this.point(event), pointerleave: () => this.look(null), blur: () => this.look(null), keydown: (event) => this.key(event),
      } }, this.picture);
    this.words = h("p", { class: "hint" });
    this.element = h("div", null, this.legend, this.frame, this.words);
    const seen = new ResizeObserver(() => this.draw());
    seen.observe(this.frame);
    signal.addEventListener("abort", () => seen.disconnect());
  }

  paint(data) {
    this.data = data;
    if (this.at !== null) this.at = Math.min(this.at, data.points.length - 1);
    this.draw();
  }

  draw() {
    const width = Math.round(this.frame.clientWidth), { points } = this.data;
    if (width < 50) return;
    const now = points.length ? points[points.length - 1].at : Date.now() / 1000, age = points.length ? now - points[0].at : 0;
    const [span, often, seldom] = SPANS_S.find(([each]) => each >= age) || SPANS_S[SPANS_S.length - 1], from = now - span;
    const most = points.reduce((high, point) => Math.max(high, ...SERIES.map(([key]) => point[key])), 0), ceiling = nice(Math.max(most, LEAST_RATE));
    this.x = (at) => LEFT + ((at - from) / span) * (width - LEFT - RIGHT);
    this.y = (value) => HEIGHT - BOTTOM - (value / ceiling) * (HEIGHT - TOP - BOTTOM);
    this.picture.setAttribute("width", width);
    this.picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const rows = [0, 0.25, 0.5, 0.75, 1].map((share) => share * ceiling);
    const step = width < 480 ? seldom : often, columns = Array.from({ length: Math.round(span / step) + 1 }, (_, n) => from + n * step);
    this.cursor = svg("g", { class: "cursor" });
    fill(this.picture,
      rows.map((value) => [svg("line", { class: value ? "grid" : "axis", x1: LEFT, x2: width - RIGHT, y1: this.y(value), y2: this.y(value) }),
        svg("text", { x: LEFT - 8, y: this.y(value) + 4, "text-anchor": "end" }, format.rate(value))]),
      columns.map((at, n) => svg("text", { x: this.x(at), y: HEIGHT - 8, "text-anchor": n === 0 ? "start" : n === columns.length - 1 ? "end" : "middle" },
        n === columns.length - 1 ? "now" : `\u2212${Math.round((now - at) / 60)} min`)),
      SERIES.map(([key]) => [AREAS.has(key) && svg("path", { class: `area ${key}`, d: this.path(points, key, true) }), svg("path", { class: `line ${key}`, d: this.path(points, key, false) })]),
      this.cursor);
    this.frame.setAttribute("aria-valuemax", Math.max(0, points.length - 1));
    const high = SERIES.map(([key, word]) => `${word} ${format.rate(points.reduce((top, point) => Math.max(top, point[key]), 0))}`).join(", ");
    setText(this.words, points.length < 2 ? !this.data.now ? "This master does not count what moves: it is of an earlier version." : "The master has only begun to count; the line grows from here."
      : most === 0 ? `Nothing moved in the last ${format.duration(age)}.` : `Highest in the last ${format.duration(age)}: ${high}. Averages over ${format.duration(this.data.step_s)}.`);
    this.look(this.at);
  }

  path(points, key, isArea) {
    if (points.length < 2) return "";
    const line = points.map((point, n) => `${n ? "L" : "M"}${this.x(point.at).toFixed(1)} ${this.y(point[key]).toFixed(1)}`).join("");
    if (!isArea) return line;
    return `${line}L${this.x(points[points.length - 1].at).toFixed(1)} ${this.y(0)}L${this.x(points[0].at).toFixed(1)} ${this.y(0)}Z`;
  }

  /** Shows the values of one point, of the last when there is none. */
  look(at) {
    const { points } = this.data;
    this.at = at === null || !points.length ? null : at;
    const point = points[this.at === null ? points.length - 1 : this.at];
    const shown = this.at === null ? this.data.now : point;  // now is of the last seconds, and a point of its whole step
    for (const [key, element] of this.values) setText(element, shown ? format.rate(shown[key]) : "\u2013");
    setText(this.when, this.at === null ? "now" : `at ${format.clock(point.at * 1000, true)}`);
    this.frame.setAttribute("aria-valuenow", this.at === null ? Math.max(0, points.length - 1) : this.at);
    this.frame.setAttribute("aria-valuetext", point ? `${format.clock(point.at * 1000, true)}: ${SERIES.map(([key, word]) => `${word} ${format.rate(point[key])}`).join(", ")}` : "nothing yet");
    if (!this.cursor) return;
    fill(this.cursor, this.at !== null && [
      svg("line", { x1: this.x(point.at), x2: this.x(point.at), y1: TOP, y2: HEIGHT - BOTTOM }),
      SERIES.map(([key]) => svg("circle", { class: key, cx: this.x(point.at), cy: this.y(point[key]), r: 3.5 })),
    ]);
  }

  point(event) {
    const { points } = this.data, x = event.clientX - this.frame.getBoundingClientRect().left;
    if (!points.length || !this.x) return;
    let best = 0;
    points.forEach((point, n) => { if (Math.abs(this.x(point.at) - x) < Math.abs(this.x(points[best].at) - x)) best = n; });
    this.look(best);
  }

  key(event) {
    const last = this.data.points.length - 1, at = this.at === null ? last : this.at;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last, PageUp: at - 6, PageDown: at + 6 }[event.key];
    if (to === undefined || last < 0) return;
    this.look(Math.min(Math.max(to, 0), last));
    event.preventDefault();
  }
}

/** The next of 1, 2, 4, 8 times a power of ten: four rows between it and nothing are round too. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 8, 10].find((each) => each * power >= value) * power;
}
