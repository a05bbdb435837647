/**
 * Untrusted links: only web addresses become links, and each shows the host it leads to.
 */

import { element, foreign } from "../ui/dom.js";

/**
 * A web address, or null for anything else.
 * @param {string} url
 */
export function webAddress(url) {
  const target = URL.canParse(url) ? new URL(url) : null;
  return target?.protocol === "https:" || target?.protocol === "http:" ? target : null;
}

/**
 * A link with its host beside it, unless the text is the address itself.
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
