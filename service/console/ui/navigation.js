/**
 * Navigation: shows the parts of the page that belong to the current route, and marks its link in the header.
 *
 * A part with `data-route="feed alert"` is shown while one of these routes is open.
 */

import { byId } from "./dom.js";
import { onRoute } from "./router.js";

/** Follows the current route. */
export function followRoutes() {
  const parts = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("main [data-route]"));
  const links = /** @type {NodeListOf<HTMLElement>} */ (byId("nav").querySelectorAll("[data-route]"));
  onRoute(({ name }) => {
    for (const part of parts) part.hidden = !routesOf(part).includes(name);
    for (const link of links) markCurrent(link, routesOf(link).includes(name));
  });
}

/** @param {HTMLElement} node */
function routesOf(node) {
  return (node.dataset.route ?? "").split(" ");
}

/** @param {HTMLElement} link @param {boolean} isCurrent */
function markCurrent(link, isCurrent) {
  if (isCurrent) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}
