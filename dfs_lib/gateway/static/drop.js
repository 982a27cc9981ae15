// Files and folders out of a drop or a picker, as [{file, path}]: path is relative to where it will lie; folders without files as
// {folder: path}. Reads no content.

export function isFileDrag(event) {
  return Boolean(event.dataTransfer) && [...event.dataTransfer.types].includes("Files");
}

/** What a picker chose. */
export function picked(files) {
  return [...files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}

/** What was dropped. Everything is taken from the DataTransfer before the first wait: it is empty afterwards. */
export async function dropped(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const taken = items.map((item) => ({ entry: item.webkitGetAsEntry ? item.webkitGetAsEntry() : null, file: item.getAsFile() }));
  const found = [];
  for (const { entry, file } of taken) {
    if (entry) await walk(entry, "", found);
    else if (file) found.push({ file, path: file.webkitRelativePath || file.name });
  }
  return found;
}

async function walk(entry, folder, found) {
  const path = folder + entry.name;
  if (entry.isFile) {
    found.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path });
    return;
  }
  found.push({ folder: path });
  const reader = entry.createReader();
  for (;;) {
    // A reader gives up to 100 entries a call, and none at the end.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return;
    for (const each of some) await walk(each, `${path}/`, found);
  }
}
