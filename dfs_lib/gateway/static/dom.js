// Elements made from names, attributes and children. Every string becomes a text node: nothing here, or anywhere in the page, parses
// markup, so a file's name can hold what it likes.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Attributes: `class`, `on: {event: handler}`, `data: {name: text}`, `style: {property: value}` (by CSSOM: the
 *  page's policy allows no style attribute), anything else as it is called in HTML; null and false are left out, true is "". */
export function h(tag, attributes, ...children) {
  return dress(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function svg(tag, attributes, ...children) {
  return dress(document.createElementNS(SVG, tag), attributes, children);
}

function dress(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "style") for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(element, child);
    else element.append(child instanceof Node ? child : String(child));
  }
}

/** Puts these children in the place of all that were there. */
export function fill(element, ...children) {
  const fresh = document.createDocumentFragment();
  append(fresh, children);
  element.replaceChildren(fresh);
  return element;
}

/** A picture of icon.svg, for the eye alone: what it means is said in words beside it. */
export function icon(name, className = "") {
  return svg("svg", { class: `icon ${className}`.trim(), viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" },
    svg("use", { href: `#icon-${name}` }));
}

/** Brings the pictures of icon.svg into the page itself: a <use> of another file is fetched for each element, and a page that lost its
 *  gateway could not even show its warning sign. */
export async function loadIcons() {
  const text = await (await fetch("icon.svg")).text();
  const pictures = [...new DOMParser().parseFromString(text, "image/svg+xml").querySelectorAll("symbol")].map((symbol) => document.importNode(symbol, true));
  for (const symbol of pictures) symbol.id = `icon-${symbol.id}`;
  document.body.append(svg("svg", { class: "quiet", width: 0, height: 0, "aria-hidden": "true" }, pictures));
}

/** Another picture in the same place. */
export function setIcon(element, name) {
  const use = element.querySelector("use"), wanted = `#icon-${name}`;
  if (use.getAttribute("href") !== wanted) use.setAttribute("href", wanted);
}

/** A button of words, a picture, or both; one without words needs `label`. */
export function button({ icon: picture, text, label, kind = "", on, ...rest }) {
  return h("button", { type: "button", class: `button ${kind}${text ? "" : " square"}`.trim(), "aria-label": label, title: label,
                       on: on ? { click: on } : null, ...rest },
    picture && icon(picture), text && h("span", null, text));
}

/** A name that somebody chose: its writing direction stays its own, and it breaks where it must. */
export function name(text, className = "") {
  return h("bdi", { class: `name ${className}`.trim() }, visible(text));
}

/** Control and direction-changing characters, shown as what they are: a name must not be able to look like another. */
export function visible(text) {
  return String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff]/g,
    (character) => `\u2039${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u203a`);
}

/** Sets a text only when it differs, so that a selection and a screen reader's place survive an update. */
export function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

/** Makes the children of `parent` those of `items`, in their order, keeping the elements of keys that were there before.
 *  make(item) → element; update(element, item) is called for each, new or kept. */
export function reconcile(parent, items, keyOf, make, update) {
  const before = parent.keyed || new Map(), now = new Map();
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item), element = before.get(key) || make(item);
    update(element, item);
    now.set(key, element);
    if (element === place) place = place.nextSibling;
    else parent.insertBefore(element, place);
  }
  for (const [key, element] of before) if (!now.has(key)) element.remove();
  parent.keyed = now;
}

/** Calls `run` no more than once every `wait_ms`, and once more at the end. */
export function calmly(run, wait_ms) {
  let timer = null, last_ms = -Infinity;
  return () => {
    if (timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      last_ms = performance.now();
      run();
    }, Math.max(0, last_ms + wait_ms - performance.now()));
  };
}
