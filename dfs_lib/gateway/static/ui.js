// What every view uses: messages that pass, dialogs that ask, menus. Focus always comes back to where it was.

import { button, fill, h, icon, name } from "./dom.js";

const TOAST_MS = 6_000;
const MOST_TOASTS = 4;

/** Says something to a screen reader, and to nobody else. */
export function say(text) {
  const place = document.getElementById("said");
  place.textContent = "";
  requestAnimationFrame(() => { place.textContent = text; });
}

// -- messages that pass -----------------------------------------------------------------------------------------------
/** A message at the edge. level: "ok", "warning" or "danger"; a danger stays until it is put away.
 *  hint: what to do next; actions: [{text, run}]; key: a later message of the same key takes its place. */
export function toast(text, { level = "ok", hint = "", actions = [], key = null } = {}) {
  const place = document.getElementById("toasts");
  if (key) for (const old of place.children) if (old.dataset.key === key) old.remove();
  let timer = null;
  const gone = () => {
    clearTimeout(timer);
    const holdsFocus = element.contains(document.activeElement);
    element.remove();
    if (holdsFocus) document.getElementById("main").focus({ preventScroll: true });
  };
  const wait = () => { if (level !== "danger") timer = setTimeout(gone, TOAST_MS); };
  const element = h("div", { class: `toast ${level}`, role: level === "danger" ? "alert" : "status", data: key ? { key } : {}, on: {
    pointerenter: () => clearTimeout(timer), pointerleave: wait, focusin: () => clearTimeout(timer), focusout: wait,
  } },
    icon(level, level),
    h("div", { class: "words" }, h("p", null, text), hint && h("p", { class: "hint" }, hint),
      actions.length > 0 && h("div", { class: "row" }, actions.map((action) =>
        button({ text: action.text, kind: "small", on: () => { gone(); action.run(); } })))),
    button({ icon: "close", label: "Put this message away", kind: "plain", on: gone }));
  place.append(element);
  while (place.children.length > MOST_TOASTS) place.firstChild.remove();
  wait();
  return gone;
}

/** An error as a message. An answer that asks for a key is told by the sign-in view instead. */
export function tell(error, doing = "", actions = []) {
  if (error.name === "AbortError" || error.status === 401) return;
  if (error.status === undefined) console.error(error);
  toast(doing ? [doing, " ", error.message] : error.message, { level: "danger", hint: error.hint || "", actions });
}

// -- dialogs ----------------------------------------------------------------------------------------------------------
/** Opens a modal dialog and waits. build(close, dialog) → its children; close(answer) ends it. Escape and a click beside it answer
 *  null. Afterwards the focus is where it was, or on what `back()` returns. */
export function ask(title, build, { wide = false, back = null } = {}) {
  const before = document.activeElement;
  return new Promise((resolve) => {
    let answer = null;
    const close = (value) => { answer = value; dialog.close(); };
    const heading = `dialog-${Math.random().toString(36).slice(2)}`;
    const dialog = h("dialog", { class: wide ? "wide" : "", "aria-labelledby": heading, on: {
      pointerdown: (event) => { if (event.target === dialog) close(null); },
      close: () => {
        dialog.remove();
        const place = (back && back()) || (before && before.isConnected ? before : document.getElementById("main"));
        place.focus({ preventScroll: true });
        resolve(answer);
      },
    } });
    fill(dialog, h("div", { class: "sheet" }, h("h2", { id: heading }, title), build(close, dialog)));
    document.body.append(dialog);
    dialog.showModal();
    const first = dialog.querySelector("[autofocus]");
    if (first) first.focus();
  });
}

/** The row of buttons at a dialog's foot; the first is Cancel. */
export function feet(close, ...others) {
  return h("div", { class: "feet" }, button({ text: "Cancel", on: () => close(null) }), others);
}

/** Asks for one line of text. check(text) → what is wrong with it, or "". selected: how many characters of it are marked at first.
 *  run(text): what is then done; while it runs the dialog waits, and its error is told in place. Returns whether it was done. */
export function askText(title, { label, value = "", selected = value.length, action, check, run, intro = null, back = null }) {
  return ask(title, (close) => {
    const fault = h("p", { class: "fault", id: "fault", role: "alert" });
    const input = h("input", { type: "text", id: "text", autofocus: true, autocomplete: "off", spellcheck: "false", dir: "auto",
                               "aria-describedby": "fault" });
    input.value = value;
    // At once: a frame later, on a slow machine, somebody has typed already and the caret would jump back under their fingers.
    input.addEventListener("focus", () => input.setSelectionRange(0, selected), { once: true });
    const go = button({ text: action, kind: "main", type: "submit" });
    const submit = async (event) => {
      event.preventDefault();
      const text = input.value, wrong = check(text);
      fault.textContent = wrong;
      input.setAttribute("aria-invalid", wrong ? "true" : "false");
      if (wrong) return input.focus();
      go.disabled = true;
      try {
        await run(text);
        close(true);
      } catch (error) {
        if (error.status === undefined) console.error(error);
        fault.textContent = [error.message, error.hint].filter(Boolean).join(" ");
        go.disabled = false;
        input.focus();
      }
      return undefined;
    };
    return h("form", { on: { submit } }, intro, h("label", { for: "text" }, label), input, fault, feet(close, go));
  }, { back });
}

/** A path in a sentence. */
export function quoted(text) {
  return h("q", { class: "quoted" }, name(text));
}

// -- menus ------------------------------------------------------------------------------------------------------------
/** Opens a menu at an element. items: [{text, icon, run, href, kind, download}] or null for a line between. */
export function menu(anchor, items, label) {
  const before = document.activeElement;
  const list = h("div", { class: "menu", role: "menu", "aria-label": label });
  let done = false;
  const away = (focus) => {
    if (done) return;
    done = true;
    document.removeEventListener("pointerdown", outside, true);
    window.removeEventListener("resize", leave);
    list.remove();
    anchor.setAttribute("aria-expanded", "false");
    if (focus) (before && before.isConnected ? before : anchor).focus({ preventScroll: true });
  };
  const outside = (event) => { if (!list.contains(event.target)) away(false); };
  const leave = () => away(false);
  for (const item of items) {
    if (!item) {
      list.append(h("div", { class: "rule", role: "separator" }));
      continue;
    }
    const attributes = { class: `item ${item.kind || ""}`, role: "menuitem", tabindex: "-1" };
    const words = [icon(item.icon || "more"), h("span", null, item.text)];
    const element = item.href
      ? h("a", { ...attributes, href: item.href, download: item.download, target: item.target, rel: "noopener" }, words)
      : h("button", { ...attributes, type: "button" }, words);
    element.addEventListener("click", () => {
      away(true);
      if (item.run) item.run();
    });
    list.append(element);
  }
  list.addEventListener("keydown", (event) => {
    const all = [...list.querySelectorAll("[role=menuitem]")], at = all.indexOf(document.activeElement);
    const next = { ArrowDown: (at + 1) % all.length, ArrowUp: (at - 1 + all.length) % all.length, Home: 0, End: all.length - 1 }[event.key];
    if (next !== undefined) all[next].focus();
    else if (event.key === "Escape" || event.key === "Tab") away(true);
    else if (event.key.length === 1 && /\S/.test(event.key)) {
      const found = [...all.slice(at + 1), ...all.slice(0, at + 1)]
        .find((each) => each.textContent.toLowerCase().startsWith(event.key.toLowerCase()));
      if (found) found.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  document.body.append(list);
  anchor.setAttribute("aria-expanded", "true");
  const box = anchor.getBoundingClientRect(), own = list.getBoundingClientRect(), edge = 8;
  const left = Math.max(edge, Math.min(box.right - own.width, window.innerWidth - own.width - edge));
  const below = box.bottom + 4, above = box.top - own.height - 4;
  const top = below + own.height > window.innerHeight - edge && above > edge ? above : Math.max(edge, Math.min(below, window.innerHeight - own.height - edge));
  list.style.setProperty("left", `${left}px`);
  list.style.setProperty("top", `${top}px`);
  list.querySelector("[role=menuitem]").focus({ preventScroll: true });
  document.addEventListener("pointerdown", outside, true);
  window.addEventListener("resize", leave);
}

/** What stands where a list would, when there is nothing: a picture, a sentence, what to do. */
export function empty(picture, text, hint, ...actions) {
  return h("div", { class: "empty" }, icon(picture), h("p", { class: "lead" }, text), hint && h("p", { class: "hint" }, hint),
    actions.some(Boolean) && h("div", { class: "row" }, actions));
}

/** A view's place while its data is on the way; shown only when it takes a moment, so that a quick answer does not flicker. */
export function loading(text = "Loading…") {
  return h("div", { class: "loading", role: "status" }, h("span", { class: "spinner", "aria-hidden": "true" }), text);
}

/** An error where the data would be, with a way on. */
export function failed(error, again) {
  return h("div", { class: "empty", role: "alert" }, icon("warning"), h("p", { class: "lead" }, error.message),
    error.hint && h("p", { class: "hint" }, error.hint), h("div", { class: "row" }, button({ icon: "again", text: "Try again", on: again })));
}
