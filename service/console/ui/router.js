/**
 * What is open in the page, by its address: `#/` the feed, `#/alerts/<id>` one alert beside it, `#/dashboard`, `#/settings`.
 * The search part of the address (the filters of the feed) stays as it is.
 */

/** @typedef {{name: "feed" | "dashboard" | "settings"} | {name: "alert", id: string}} Place */

const PLAIN = /** @type {const} */ (["dashboard", "settings"]);

/** @type {Place} */ let current = placeAt(location.hash) ?? { name: "feed" };
/** @type {Set<(place: Place) => void>} */ const listeners = new Set();

/** What is open. */
export function place() {
  return current;
}

/**
 * Calls back now, and whenever something else is opened.
 * @param {(place: Place) => void} callback
 */
export function onPlace(callback) {
  listeners.add(callback);
  callback(current);
}

/**
 * Opens a place; the browser's back button returns from it to where one was.
 * @param {Place} next
 * @param {{instead?: boolean}} [how]  `instead`: the back button leads to where it led before, as in leafing through.
 */
export function go(next, { instead = false } = {}) {
  history[instead ? "replaceState" : "pushState"](null, "", hashOf(next));
  follow();
}

/** The address of a place, for a link. @param {Place} target */
export function hashOf(target) {
  switch (target.name) {
    case "feed":
      return "#/";
    case "alert":
      return `#/alerts/${encodeURIComponent(target.id)}`;
    default:
      return `#/${target.name}`;
  }
}

/**
 * The place that an address, or a link, leads to.
 * @param {string} hash
 * @returns {Place | null}  Null for one that is not about what is open: `#token=…`, or the target of the skip link.
 */
export function placeAt(hash) {
  if (hash === "" || hash === "#") return { name: "feed" };
  if (!hash.startsWith("#/")) return null;
  const [first, id, ...rest] = hash.slice(2).split("/");
  const name = PLAIN.find((plain) => plain === first);
  if (name) return { name };
  return first === "alerts" && id && !rest.length ? { name: "alert", id: decoded(id) } : { name: "feed" };
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // A lone percent sign: the server will say that there is no such alert.
  }
}

function follow() {
  const next = placeAt(location.hash);
  if (!next || hashOf(next) === hashOf(current)) return;
  current = next;
  for (const listener of listeners) listener(current);
}

addEventListener("hashchange", follow);
