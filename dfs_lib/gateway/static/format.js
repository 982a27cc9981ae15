// Numbers, times and paths as people read them. Sizes are decimal, as the command line tells them: 1 kB is 1,000 bytes.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
const COUNTS = new Intl.NumberFormat("en");

/** 1536 → "1.5 kB", 300000 → "300 kB". */
export function size(bytes) {
  let amount = Number(bytes), unit = 0;
  while (amount >= 999.5 && unit < UNITS.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || amount >= 99.95 ? 0 : 1;
  return `${amount.toFixed(digits)}\u00a0${UNITS[unit]}`;
}

export function rate(bytesPerSecond) {
  return `${size(bytesPerSecond)}/s`;
}

export function count(n, one, many = `${one}s`) {
  return `${COUNTS.format(n)}\u00a0${Number(n) === 1 ? one : many}`;
}

export function number(n) {
  return COUNTS.format(n);
}

/** Seconds → "8 s", "2 min 5 s", "3 h 20 min", "4 d". */
export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 9.95) return `${(Math.round(s * 10) / 10).toString()}\u00a0s`;
  if (s < 59.5) return `${Math.round(s)}\u00a0s`;
  const whole = Math.round(s), minutes = Math.floor(whole / 60), hours = Math.floor(minutes / 60);
  if (minutes < 10) return `${minutes}\u00a0min` + (whole % 60 ? ` ${whole % 60}\u00a0s` : "");
  if (hours < 1) return `${minutes}\u00a0min`;
  if (hours < 48) return `${hours}\u00a0h` + (minutes % 60 ? ` ${minutes % 60}\u00a0min` : "");
  return `${Math.floor(hours / 24)}\u00a0d`;
}

/** The same in whole seconds, for what is counted each second. */
export function seconds(s) {
  return s < 59.5 ? `${Math.round(Math.max(0, s))}\u00a0s` : duration(s);
}

const two = (n) => String(n).padStart(2, "0");

/** ISO 8601 or milliseconds → "2026-11-24 07:58" in the reader's time zone; "" for nothing. */
export function time(when, withSeconds = false) {
  if (when === null || when === undefined || when === "") return "";
  const at = new Date(when);
  if (Number.isNaN(at.getTime())) return "";
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock(at, withSeconds)}`;
}

/** "07:58" or "07:58:12". */
export function clock(when, withSeconds = false) {
  const at = new Date(when);
  return `${two(at.getHours())}:${two(at.getMinutes())}` + (withSeconds ? `:${two(at.getSeconds())}` : "");
}

// -- paths ------------------------------------------------------------------------------------------------------------
/** "/a/b" → "/a"; the parent of "/" is "/". */
export function parent(path) {
  return path.slice(0, path.lastIndexOf("/")) || "/";
}

export function base(path) {
  return path.slice(path.lastIndexOf("/") + 1);
}

export function join(directory, name) {
  return directory === "/" ? `/${name}` : `${directory}/${name}`;
}

export function isBelow(path, directory) {
  return directory === "/" || path === directory || path.startsWith(`${directory}/`);
}

const encoded = (path) => path.split("/").map(encodeURIComponent).join("/");

/** Where a file's bytes are; relative, so that the page works below a prefix too. Each part is encoded whole: "%2e%2e" stays a name. */
export function fileUrl(path, query = "") {
  return `files${encoded(path)}${query}`;
}

/** The page's own address of a folder. */
export function folderLink(path, find = "") {
  return `#/files${path === "/" ? "/" : encoded(path)}${find ? `?find=${encodeURIComponent(find)}` : ""}`;
}

/** What is wrong with a name for a file or folder, "" when nothing is. */
export function nameFault(name) {
  if (!name.trim()) return "A name is needed.";
  if (name.includes("/")) return "A name cannot contain a slash.";
  if (name === "." || name === "..") return "That name means a place, not a file.";
  if (/[\u0000-\u001f\u007f]/.test(name)) return "A name cannot contain control characters.";
  if (new TextEncoder().encode(name).length > 255) return "That name is too long: 255 bytes at most.";
  return "";
}

/** The first of "a (2).txt", "a (3).txt", … that `isTaken` does not hold for. */
export function freeName(name, isTaken) {
  const dot = name.lastIndexOf("."), stem = dot > 0 ? name.slice(0, dot) : name, extension = dot > 0 ? name.slice(dot) : "";
  let n = 2;
  while (isTaken(`${stem} (${n})${extension}`)) n += 1;
  return `${stem} (${n})${extension}`;
}
