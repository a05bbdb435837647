/**
 * Building elements from data that may be hostile: text only ever becomes a text node, never markup.
 */

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {string | Record<string, string>} attributes  A class name, or attributes by name.
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  const named = typeof attributes === "string" ? { class: attributes } : attributes;
  for (const [name, value] of Object.entries(named)) if (value) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/**
 * Text from outside, in a bidi isolate: a right-to-left override in it cannot turn what stands beside it.
 * @param {string} className
 * @param {string} text
 */
export function foreign(className, text) {
  return element("bdi", { class: className, dir: "auto" }, text);
}

/**
 * The same for a text that is to be part of a sentence.
 * @param {string} text
 */
export function isolated(text) {
  return `\u2068${text}\u2069`;
}

/**
 * Sets a text, unless it is there: writing it again would be announced again, and cost a layout.
 * @param {Element} node
 * @param {string} text
 */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * An element of index.html.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export function byId(id) {
  return /** @type {T} */ (document.getElementById(id));
}
