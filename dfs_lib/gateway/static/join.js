// The view that adds a keeper: the exact command, to copy, and the new keeper as soon as it is there.

import { api } from "./api.js";
import { button, fill, h, icon, name, reconcile, setText } from "./dom.js";
import * as format from "./format.js";
import { live, on } from "./live.js";
import { say, tell } from "./ui.js";

export function showJoin(place, _route, signal) {
  let before = null, expires_ms = null;
  const code = h("code", { id: "join-command", tabindex: "0", "aria-label": "The command" });
  const copy = button({ icon: "copy", text: "Copy", kind: "main", on: () => copyText(code, copy) });
  const until = h("p", { class: "hint", role: "status" });
  const make = button({ icon: "key", text: "Make the command", kind: "main", id: "make-command", on: () => load() });
  const box = h("div", { class: "command", hidden: true }, code, copy);
  const arrived = h("ul", { class: "arrived" });
  const waiting = h("p", { class: "hint" }, "Nobody yet; a keeper shows here a second after it starts.");
  const load = async () => {
    make.disabled = true;
    try {
      const answer = await api.join();
      if (signal.aborted) return;
      before = before || new Set((live.status ? live.status.keepers : []).map((keeper) => keeper.keeper_id));
      code.textContent = answer.command;
      expires_ms = answer.expires_s ? performance.now() + answer.expires_s * 1000 : null;
      box.hidden = false;
      make.querySelector("span").textContent = "Make another";
      make.classList.remove("main");
      paint();
      copy.focus({ preventScroll: true });
      say("The command is there");
    } catch (error) {
      tell(error, "No command could be made.");
    }
    make.disabled = false;
  };
  const paint = () => {
    if (expires_ms !== null) {
      const left_s = (expires_ms - performance.now()) / 1000;
      setText(until, left_s > 0 ? `Its code works once, for another ${format.duration(Math.max(60, Math.round(left_s / 60) * 60))}.` : "Its code has lapsed: make another.");
      code.classList.toggle("lapsed", left_s <= 0);
    }
    const fresh = before && live.status ? live.status.keepers.filter((keeper) => !before.has(keeper.keeper_id)) : [];
    reconcile(arrived, fresh, (keeper) => keeper.keeper_id, (keeper) => h("li", null, icon("ok", "ok"), name(keeper.name), h("span", { class: "hint" })),
      (element, keeper) => setText(element.lastChild, `${keeper.word}, at ${keeper.host}, ${format.size(keeper.free)} free`));
    waiting.hidden = fresh.length > 0;
  };
  fill(place, h("div", { class: "narrow" },
    h("h1", null, "Add a keeper"),
    h("p", { class: "lead" }, "A keeper is a machine that gives the cluster room on its disk. Nothing is installed on it."),
    h("ol", { class: "steps" },
      h("li", null, h("h2", null, "Copy the program to the machine"),
        h("p", null, "The one file ", h("code", null, "dfs"), ", the same as here; for example ", h("code", null, "scp dfs MACHINE:"), ".")),
      h("li", null, h("h2", null, "Run this there"),
        h("p", null, "Where you want the blocks to lie: ", h("code", null, "--data"), " names the directory. Add ", h("code", null, "--label room=204"),
          " and, where the master runs with ", h("code", null, "--spread room"), ", no two copies of a block go to one room while others are left."),
        h("div", { class: "row" }, make), box, until),
      h("li", null, h("h2", null, "It joins"), waiting, arrived, h("p", null, h("a", { href: "#/cluster" }, "All keepers"))))));
  on("status", paint, signal);
  on("tick", paint, signal);
}

/** To the clipboard; over plain HTTP browsers give no clipboard to scripts, so there the old way: select, copy. */
async function copyText(element, source) {
  let isDone = false;
  try {
    if (navigator.clipboard && window.isSecureContext) {
      await navigator.clipboard.writeText(element.textContent);
      isDone = true;
    }
  } catch {
    // Refused by the browser: the old way below.
  }
  const range = document.createRange();
  range.selectNodeContents(element);
  window.getSelection().removeAllRanges();
  window.getSelection().addRange(range);
  if (!isDone) isDone = document.execCommand("copy");
  const words = source.querySelector("span");
  words.textContent = isDone ? "Copied" : "Press Ctrl-C";
  say(words.textContent);
  setTimeout(() => { words.textContent = "Copy"; }, 2_000);
}
