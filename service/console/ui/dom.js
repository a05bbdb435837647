/**
 * Elements from untrusted data: text becomes a text node, never markup.
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
 * Untrusted text in a bidi isolate: a right-to-left override in it does not affect the text beside it.
 * @param {string} className
 * @param {string} text
 */
export function foreign(className, text) {
  return element("bdi", { class: className, dir: "auto" }, text);
}

/**
 * The same as plain text, for use in a sentence.
 * @param {string} text
 */
export function isolated(text) {
  return `\u2068${text}\u2069`;
}

/**
 * Sets a text if it differs: setting it again would be announced again and cost a layout.
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
