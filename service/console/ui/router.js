/**
 * The routes of the page, in the hash of the address: `#/` is the feed, `#/alerts/<id>` an alert beside it, `#/dashboard`,
 * `#/settings`. The search part of the address (the filters of the feed) does not change with the route.
 */

/** @typedef {{name: "feed" | "dashboard" | "settings"} | {name: "alert", id: string}} Route */

const SIMPLE_ROUTES = /** @type {const} */ (["dashboard", "settings"]);

/** @type {Route} */ let current = routeOf(location.hash) ?? { name: "feed" };
/** @type {Set<(route: Route) => void>} */ const listeners = new Set();

export function currentRoute() {
  return current;
}

/**
 * Calls back now, and whenever the route changes.
 * @param {(route: Route) => void} callback
 */
export function onRoute(callback) {
  listeners.add(callback);
  callback(current);
}

/**
 * Opens a route.
 * @param {Route} next
 * @param {{instead?: boolean}} [how]  `instead`: replaces the current entry of the history.
 */
export function go(next, { instead = false } = {}) {
  history[instead ? "replaceState" : "pushState"](null, "", hashOf(next));
  onHashChange();
}

/** The address of a route, for a link. @param {Route} target */
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
 * The route of an address or a link.
 * @param {string} hash
 * @returns {Route | null}  Null: not a route, such as `#token=…` or the target of the skip link.
 */
export function routeOf(hash) {
  if (hash === "" || hash === "#") return { name: "feed" };
  if (!hash.startsWith("#/")) return null;
  const [first, id, ...rest] = hash.slice(2).split("/");
  const name = SIMPLE_ROUTES.find((route) => route === first);
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

function onHashChange() {
  const next = routeOf(location.hash);
  if (!next || hashOf(next) === hashOf(current)) return;
  current = next;
  for (const listener of listeners) listener(current);
}

addEventListener("hashchange", onHashChange);
