// Light or dark before the first paint: what the reader chose here, else what the system says. Keeps one word in localStorage.
// A classic script in the head on purpose: a module would run after the first paint, which would flash.
"use strict";

window.theme = (() => {
  const KEY = "dfs-theme", system = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;

  function chosen() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;  // storage is switched off: the system's choice holds
    }
  }

  function apply() {
    const wanted = chosen();
    root.dataset.theme = wanted === "light" || wanted === "dark" ? wanted : system.matches ? "dark" : "light";
    root.dispatchEvent(new Event("theme"));
  }

  function toggle() {
    const wanted = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(KEY, wanted);
    } catch {
      // It holds as long as the page.
    }
    root.dataset.theme = wanted;
    root.dispatchEvent(new Event("theme"));
  }

  system.addEventListener("change", apply);
  apply();
  return { toggle };
})();
