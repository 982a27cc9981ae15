// Who looks at the page: the key goes to the gateway and comes back as a cookie that no script can read; the page keeps nothing of it.

import { api } from "./api.js";
import { isBelow } from "./format.js";

export const session = { known: null };

/** A key in the address (`#key=…`), taken off it at once: neither the history nor a bookmark keeps it. */
export function takeKey() {
  const found = /^#key=(.*)$/s.exec(location.hash);
  if (!found) return null;
  history.replaceState(null, "", `${location.pathname}${location.search}`);
  try {
    return decodeURIComponent(found[1].replace(/\+/g, " ")).trim();
  } catch {
    return found[1].replace(/\+/g, " ").trim();
  }
}

/** The session that the cookie stands for; null when a key is needed. */
export async function resume() {
  try {
    session.known = await api.session();
    if (session.known.auth !== "none" && !session.known.role) session.known = null;
  } catch (error) {
    if (error.status !== 401 && error.status !== 403) throw error;
    session.known = null;
  }
  return session.known;
}

export async function signIn(key) {
  session.known = await api.signIn(key);
  return session.known;
}

export async function signOut() {
  await api.signOut();
  session.known = null;
}

export function home() {
  return (session.known && session.known.home) || "/";
}

/** Whether this user may ask why: those whom a home confines may not. */
export function mayAskWhy() {
  return home() === "/";
}

/** Whether this user may look into a folder. */
export function maySee(path) {
  return isBelow(path, home());
}

export function isAdmin() {
  return Boolean(session.known) && session.known.role === "admin";
}

/** Whether this user may change what lies at a path. */
export function mayWrite(path) {
  return Boolean(session.known) && session.known.role !== "reader" && isBelow(path, home());
}
