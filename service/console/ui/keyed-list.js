/**
 * Lists that change under the eyes of a reader: what did not change stays the element that it is, and so keeps the
 * focus, and the text that is selected in it.
 */

/** @typedef {{key: string, state: string, build: () => HTMLElement}} KeyedItem */

/** @type {WeakMap<Element, {key: string, state: string}>} */ const known = new WeakMap();

/**
 * Makes the children of a list these items, in this order. An item whose state is another is built anew.
 * @param {HTMLElement} list
 * @param {KeyedItem[]} items
 */
export function renderKeyed(list, items) {
  const before = new Map([...list.children].map((child) => [known.get(child)?.key, child]));
  const children = items.map(({ key, state, build }) => {
    const child = before.get(key);
    if (child && known.get(child)?.state === state) return child;
    const built = build();
    known.set(built, { key, state });
    return built;
  });
  const kept = new Set(children);
  for (const child of [...list.children]) if (!kept.has(child)) child.remove();
  children.forEach((child, index) => {
    if (list.children[index] !== child) list.insertBefore(child, list.children[index] ?? null);
  });
}
