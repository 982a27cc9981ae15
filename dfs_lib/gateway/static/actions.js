// What changes files, each with its question: rename, move, delete, new folder. Each answers what came of it, null for nothing.

import { api, ask as send } from "./api.js";
import { button, fill, h, icon, name } from "./dom.js";
import * as format from "./format.js";
import { home } from "./session.js";
import { ask, askText, feet, quoted, tell, toast } from "./ui.js";

const LISTED = 6;

export function downloadUrl(entry) {
  return format.fileUrl(entry.path, entry.type === "dir" ? "?zip=1" : "?download=1");
}

/** Asks for another name; answers the new path. */
export async function rename(entry, isTaken, back) {
  const dot = entry.type === "file" ? entry.name.lastIndexOf(".") : -1, folder = format.parent(entry.path);
  let to = null;
  const isDone = await askText(entry.type === "dir" ? "Rename folder" : "Rename file", {
    label: "New name", value: entry.name, selected: dot > 0 ? dot : entry.name.length, action: "Rename", back,
    check: (text) => format.nameFault(text) || (text !== entry.name && isTaken(format.join(folder, text)) ? "Something of that name is there already." : ""),
    run: async (text) => {
      to = format.join(folder, text);
      if (text !== entry.name) await api.rename(entry.path, to);
    },
  });
  return isDone ? to : null;
}

/** Asks for a name; answers the path of the folder that was made. */
export async function makeFolder(parent, isTaken) {
  let made = null;
  const isDone = await askText("New folder", {
    label: "Name", action: "Make folder",
    check: (text) => format.nameFault(text) || (isTaken(format.join(parent, text)) ? "Something of that name is there already." : ""),
    run: async (text) => {
      made = format.join(parent, text);
      await api.mkdir(made);
    },
  });
  return isDone ? made : null;
}

/** Says what will go, counted, and asks. Answers whether anything went. */
export async function remove(entries, back) {
  const stop = new AbortController(), only = entries.length === 1 ? entries[0] : null;
  const isSure = await ask(only ? (only.type === "dir" ? "Delete this folder?" : "Delete this file?") : `Delete ${entries.length} things?`, (close) => {
    const told = h("p", { role: "status" }, "Counting what would go…"), go = button({ text: "Delete", kind: "danger main", on: () => close(true) });
    go.disabled = true;
    totals(entries, stop.signal).then((sum) => {
      const parts = [sum.files && format.count(sum.files, "file"), sum.directories && format.count(sum.directories, "folder")].filter(Boolean);
      fill(told, h("strong", null, parts.join(" and ") || "Nothing"), sum.files ? `, ${format.size(sum.bytes)}` : "",
        ", with all copies. This cannot be undone.");
      go.disabled = false;
      go.querySelector("span").textContent = sum.files > 1 ? `Delete ${format.count(sum.files, "file")}` : "Delete";
    }, (error) => {
      if (error.name === "AbortError") return;
      fill(told, "What would go could not be counted: ", error.message, " All copies go, and this cannot be undone.");
      go.disabled = false;
    });
    const list = h("ul", { class: "names" }, entries.slice(0, LISTED).map((entry) =>
      h("li", null, icon(entry.type === "dir" ? "folder" : "file", entry.type), name(only ? entry.path : entry.name))),
    entries.length > LISTED && h("li", { class: "hint" }, `and ${entries.length - LISTED} more`));
    const foot = feet(close, go);
    foot.firstChild.setAttribute("autofocus", "");
    return [list, told, foot];
  }, { back });
  stop.abort();
  if (!isSure) return false;
  let gone = 0;
  for (const entry of entries) {
    try {
      await removeOne(entry);
      gone += 1;
    } catch (error) {
      tell(error, `${entry.name} was not deleted.`);
      break;
    }
  }
  if (gone) toast(gone === 1 ? "Deleted." : `${gone} deleted.`);
  return gone > 0;
}

async function totals(entries, signal) {
  const sum = { files: 0, directories: 0, bytes: 0 };
  for (const entry of entries) {
    if (entry.type === "file") {
      sum.files += 1;
      sum.bytes += entry.size;
    } else {
      const usage = await api.usage(entry.path, signal);
      sum.files += usage.files;
      sum.directories += usage.directories + (usage.directories_include_self ? 0 : 1);
      sum.bytes += usage.bytes;
    }
  }
  return sum;
}

async function removeOne(entry) {
  await send("DELETE", format.fileUrl(entry.path), entry.type === "dir" ? { query: { recursive: 1 } } : {});
}

/** Asks for a folder, by walking or by typing. Answers whether anything moved. */
export async function move(entries, from, back) {
  let moved = 0;
  const isDone = await ask(entries.length === 1 ? "Move to" : `Move ${entries.length} things to`, (close) => {
    let at = from, stop = new AbortController();
    const fault = h("p", { class: "fault", role: "alert" });
    const input = h("input", { type: "text", id: "text", autocomplete: "off", spellcheck: "false", "aria-label": "Folder", dir: "auto" });
    const list = h("div", { class: "folders", role: "group", "aria-label": "Folders here" });
    const go = button({ text: "Move here", kind: "main", type: "submit" });
    const walk = async (path, takesFocus) => {
      stop.abort();
      stop = new AbortController();
      at = path;
      input.value = path;
      fault.textContent = "";
      paint();
      fill(list, h("p", { class: "hint" }, "Loading…"));
      let folders = [], next = null;
      try {
        do {
          const page = await api.list(path, next, stop.signal);
          folders = folders.concat(page.entries.filter((each) => each.type === "dir" && !entries.some((moving) => moving.path === each.path)));
          next = page.next;
        } while (next && folders.length < 500);
      } catch (error) {
        if (error.name !== "AbortError") fill(list, h("p", { class: "hint" }, error.message));
        return;
      }
      fill(list,
        path !== "/" && path !== home() && button({ icon: "up", text: "One folder up", kind: "plain", on: () => walk(format.parent(path), true) }),
        folders.map((each) => h("button", { type: "button", class: "button plain", on: { click: () => walk(each.path, true) } }, icon("folder", "dir"), name(each.name))),
        folders.length === 0 && h("p", { class: "hint" }, "No folders in here."));
      if (takesFocus) (list.querySelector("button") || input).focus();
    };
    const paint = () => { go.disabled = entries.every((entry) => format.parent(entry.path) === at); };
    input.addEventListener("input", () => { at = clean(input.value); paint(); });
    input.addEventListener("change", () => walk(clean(input.value), false));
    const submit = async (event) => {
      event.preventDefault();
      if (go.disabled) return;
      go.disabled = true;
      try {
        for (const entry of entries.filter((each) => format.parent(each.path) !== at)) {
          await api.rename(entry.path, format.join(at, entry.name));
          moved += 1;
        }
        close(true);
      } catch (error) {
        fault.textContent = [moved ? `${moved} moved, then: ` : "", error.message, error.hint].filter(Boolean).join(" ");
        go.disabled = false;
      }
    };
    walk(from, false);
    return h("form", { on: { submit } }, h("p", { class: "hint" }, entries.length === 1 ? quoted(entries[0].name) : "", " goes to the folder below."), input, list, fault, feet(close, go));
  }, { back });
  if (isDone && moved) toast(moved === 1 ? "Moved." : `${moved} moved.`);
  return Boolean(isDone) || moved > 0;
}

function clean(text) {
  return `/${text.split("/").filter(Boolean).join("/")}`;
}
