/**
 * Links that somebody else wrote: they lead to the web or are no links, and say where they lead whatever they claim.
 */

import { element, foreign } from "../ui/dom.js";

/**
 * The address of a page of the web; null for what is none.
 * @param {string} url
 */
export function webAddress(url) {
  const target = URL.canParse(url) ? new URL(url) : null;
  return target?.protocol === "https:" || target?.protocol === "http:" ? target : null;
}

/**
 * A link, and beside it the host, unless the text is the address and so names it already.
 * @param {string} text
 * @param {string} url
 */
export function linkTo(text, url) {
  const target = webAddress(url);
  if (!target) return element("span", "", foreign("", text), " ", foreign("host", `not a web link: ${url}`));
  const attributes = { href: target.href, target: "_blank", rel: "noopener noreferrer" };
  const anchor = element("a", attributes, foreign("", text || target.host));
  const rest = text.startsWith(target.origin) ? text.slice(target.origin.length) : null;
  if (rest !== null && /^($|[/?#])/.test(rest)) return element("span", "", anchor);
  return element("span", "", anchor, " ", foreign("host", target.host));
}
