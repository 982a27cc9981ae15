// The view that asks for a key: pasted, or chosen as a file. The key is handed on and forgotten.

import { button, fill, h, icon } from "./dom.js";

const MOST_BYTES = 4096;

/** submit(key): signs in; its error is told here. */
export function showSignIn(place, fault, submit) {
  const told = h("p", { class: "fault", id: "key-fault", role: "alert" }, fault);
  const input = h("input", { type: "password", id: "key", name: "key", autocomplete: "off", spellcheck: "false", required: true,
                             "aria-describedby": "key-fault", placeholder: "dfs-user-key-1 …" });
  const file = h("input", { type: "file", id: "key-file", class: "quiet", tabindex: "-1", "aria-label": "Key file" });
  const go = button({ text: "Sign in", kind: "main", type: "submit" });
  const enter = async (event) => {
    event.preventDefault();
    const key = input.value.trim();
    if (!key) {
      told.textContent = "Paste a key, or choose its file.";
      return input.focus();
    }
    go.disabled = true;
    told.textContent = "";
    try {
      await submit(key);
    } catch (error) {
      told.textContent = [error.message, error.hint].filter(Boolean).join(" ");
      input.select();
    }
    go.disabled = false;
    return undefined;
  };
  const form = h("form", { class: "card", on: { submit: enter } },
    h("h1", null, icon("mark"), "dfs"),
    h("p", { class: "lead" }, "This cluster asks for a key."),
    h("label", { for: "key" }, "Key"), input, told,
    h("div", { class: "feet" }, button({ icon: "file", text: "Choose a key file", on: () => file.click() }), file, go),
    h("details", null, h("summary", null, "Where do I get one?"),
      h("p", null, "An administrator makes a key with ", h("code", null, "dfs admin user add NAME --role reader|writer|admin"),
        " and gives you the file. The cluster\u2019s own key is ", h("code", null, "cluster.key"), " in the master\u2019s directory."),
      h("p", null, "The key is kept by this browser until it closes or you sign out, out of reach of the page itself.")));
  file.addEventListener("change", async () => {
    const chosen = file.files[0];
    file.value = "";
    if (!chosen) return;
    if (chosen.size > MOST_BYTES) {
      told.textContent = "That file is too large to be a key.";
      return;
    }
    input.value = (await chosen.text()).trim().split(/\r?\n/)[0];
    form.requestSubmit();
  });
  fill(place, form);
  input.focus({ preventScroll: true });
}
