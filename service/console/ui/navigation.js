/**
 * The way around the page: which of its parts are shown, and which link of the header stands for them.
 *
 * A part with `data-place="feed alert"` is shown while one of these places is open.
 */

import { byId } from "./dom.js";
import { onPlace } from "./router.js";

/** Keeps the parts and the links with the place. */
export function followPlaces() {
  const parts = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("main [data-place]"));
  const links = /** @type {NodeListOf<HTMLElement>} */ (byId("nav").querySelectorAll("[data-place]"));
  onPlace(({ name }) => {
    for (const part of parts) part.hidden = !placesOf(part).includes(name);
    for (const link of links) mark(link, placesOf(link).includes(name));
  });
}

/** @param {HTMLElement} node */
function placesOf(node) {
  return (node.dataset.place ?? "").split(" ");
}

/** @param {HTMLElement} link @param {boolean} isCurrent */
function mark(link, isCurrent) {
  if (isCurrent) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}
