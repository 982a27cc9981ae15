// Starts the page: who is there, which view the address names, the frame around it. Each view is a function (place, route, signal) that
// fills a place and lives until its signal aborts; it returns what takes a further address of the same view.

import { onKeyNeeded } from "./api.js";
import { button, fill, h, icon, loadIcons, name, setIcon, setText } from "./dom.js";
import * as format from "./format.js";
import { showCluster } from "./cluster.js";
import { showFiles } from "./files.js";
import { showJoin } from "./join.js";
import { live } from "./live.js";
import { home, isAdmin, maySee, resume, session, signIn, signOut, takeKey } from "./session.js";
import { showShortcuts } from "./shortcuts.js";
import { showSignIn } from "./signin.js";
import { failed, menu, say, tell } from "./ui.js";
import { uploads } from "./uploads.js";
import { showTransfers } from "./transfers.js";

const VIEWS = { files: ["Files", showFiles], cluster: ["Cluster", showCluster], join: ["Join", showJoin] };
const WORDS = { ok: "All is well", busy: "Repairing", warning: "Look here", danger: "Data at risk" };

const main = document.getElementById("main"), top = document.getElementById("top"), banner = document.getElementById("banner");
let leaving = new AbortController();
let shown = null, further = null;

// -- routes -----------------------------------------------------------------------------------------------------------
/** {view, path, find} of the address. */
function route() {
  const [where, query = ""] = location.hash.replace(/^#\/?/, "").split("?"), [view, ...parts] = where.split("/");
  let path = "/";
  try {
    path = `/${parts.map(decodeURIComponent).filter(Boolean).join("/")}`;
  } catch {
    // A broken address shows the root.
  }
  return { view: VIEWS[view] ? view : null, path, find: new URLSearchParams(query).get("find") || "" };
}

function show() {
  if (!session.known) return;
  const to = route();
  if (!to.view || (to.view === "join" && !isAdmin()) || (to.view === "files" && !maySee(to.path))) {
    location.replace(format.folderLink(home()));
    return;
  }
  const [title, view] = VIEWS[to.view];
  document.title = `${to.view === "files" && to.path !== "/" ? format.base(to.path) : title} · dfs`;
  for (const link of top.querySelectorAll("nav a")) {
    if (link.dataset.view === to.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (shown === to.view) {
    if (further) further(to);
    return;
  }
  leaving.abort();
  leaving = new AbortController();
  fill(main);
  window.scrollTo(0, 0);
  main.className = to.view;
  if (shown) say(title);
  shown = to.view;
  further = view(main, to, leaving.signal);
}

// -- the frame --------------------------------------------------------------------------------------------------------
function frame() {
  const known = session.known, who = known.user || (known.auth === "none" ? "anyone" : "administrator");
  const links = Object.entries(VIEWS).filter(([view]) => view !== "join" || isAdmin()).map(([view, [title]]) =>
    h("a", { href: view === "files" ? format.folderLink(home()) : `#/${view}`, data: { view } }, title));
  const verdict = h("a", { class: "verdict-light", href: "#/cluster", id: "light" }, icon("busy"), h("span", null, "Connecting…"));
  const account = button({ icon: "person", label: `Signed in as ${who}`, "aria-haspopup": "menu", on: () => menu(account, [
    { text: isDark() ? "Light colours" : "Dark colours", icon: isDark() ? "sun" : "moon", run: () => window.theme.toggle() },
    { text: "Keyboard shortcuts", icon: "info", run: () => showShortcuts() },
    ...(known.auth === "none" ? [] : [null, { text: "Sign out", icon: "key", run: leave }]),
  ], "Account") });
  const role = known.auth === "none" ? "no keys in this cluster" : known.role;
  fill(top,
    h("a", { class: "brand", href: format.folderLink(home()), "aria-label": "dfs: all files" }, icon("mark"), "dfs"),
    h("nav", { "aria-label": "Views" }, links),
    verdict,
    h("span", { class: "who" }, name(who), h("small", null, role)),
    themeButton(), account);
  top.hidden = false;
}

function isDark() {
  return document.documentElement.dataset.theme === "dark";
}

function themeButton() {
  const element = button({ icon: "moon", label: "Light or dark", id: "theme", on: () => window.theme.toggle() });
  const paint = () => {
    setIcon(element, isDark() ? "sun" : "moon");
    element.title = isDark() ? "Use light colours" : "Use dark colours";
    element.setAttribute("aria-label", element.title);
  };
  paint();
  document.documentElement.addEventListener("theme", paint);
  return element;
}

/** The light in the frame and the banner below it: how the cluster is, or that nobody knows. */
function paintNews() {
  const light = document.getElementById("light");
  if (!light) return;
  const lost = live.state === "lost", verdict = live.status && live.status.verdict;
  const level = lost ? "lost" : verdict ? verdict.level : "busy";
  light.className = `verdict-light ${level}`;
  setIcon(light, lost ? "warning" : level);
  setText(light.lastChild, lost ? "Not connected" : verdict ? WORDS[level] || level : "Connecting…");
  light.title = lost || !verdict ? "" : verdict.sentence;
  document.body.classList.toggle("is-lost", lost);
  if (lost) {
    const age = live.age_s;
    const words = age === null ? "Not connected. No news yet; trying again by itself."
      : `${live.fault || "Not connected"} \u2013 last news ${format.seconds(age)} ago. Trying again by itself; what you see may be old.`;
    // The seconds tick for the eye; a screen reader hears the beginning once.
    if (banner.hidden) {
      fill(banner, icon("warning"), h("span", { "aria-hidden": "true" }, words), h("span", { class: "quiet" }, "Not connected. Trying again by itself."));
      banner.hidden = false;
    } else setText(banner.children[1], words);
  } else if (!banner.hidden) {
    banner.hidden = true;
    say("Connected again.");
  }
}

// -- coming and going -------------------------------------------------------------------------------------------------
function enter() {
  frame();
  shown = null;
  live.start();
  paintNews();
  if (!route().view) history.replaceState(null, "", format.folderLink(home()));
  show();
}

async function leave() {
  if (uploads.isBusy && !window.confirm("Uploads are under way. Sign out and stop them?")) return;
  try {
    await signOut();
  } catch (error) {
    tell(error, "Signing out did not work.");
    return;
  }
  history.replaceState(null, "", location.pathname);
  askForKey("");
}

/** The sign-in view, in the place of everything. */
function askForKey(fault) {
  session.known = null;
  leaving.abort();
  live.stop();
  uploads.cancelAll();
  top.hidden = true;
  banner.hidden = true;
  document.title = "Sign in · dfs";
  main.className = "signin";
  showSignIn(main, fault, async (key) => {
    await signIn(key);
    fill(main);
    enter();
    main.focus({ preventScroll: true });
  });
}

/** isFirst: nothing of the page is there yet. */
async function begin(isFirst) {
  const key = takeKey();
  try {
    if (key) await signIn(key);
    else await resume();
    if (key && isFirst) {
      // The browser's record of this navigation still names the address with the key; the next one has no key in it.
      location.reload();
      return;
    }
  } catch (error) {
    if (key && (error.status === 401 || error.status === 403 || error.status === 400)) {
      askForKey([error.message, error.hint].filter(Boolean).join(" "));
      return;
    }
    fill(main, failed(error, () => begin(false)));
    return;
  }
  if (session.known) enter();
  else askForKey("");
}

onKeyNeeded((error) => { if (session.known) askForKey([error.message, error.hint].filter(Boolean).join(" ")); });
window.addEventListener("hashchange", () => { if (location.hash.startsWith("#key=")) begin(false); else show(); });
window.addEventListener("beforeunload", (event) => { if (uploads.isBusy) event.preventDefault(); });
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
for (const kind of ["status", "state", "tick"]) live.addEventListener(kind, paintNews);
showTransfers(document.getElementById("transfers"));
loadIcons().catch(() => {});  // without them the page works, and its buttons have names
begin(true);
