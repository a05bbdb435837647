/**
 * Lists that are updated in place: an item that did not change keeps its element, and with it the focus and selection.
 */

/** @typedef {{key: string, state: string, build: () => HTMLElement}} KeyedItem */

/** @type {WeakMap<Element, {key: string, state: string}>} */ const known = new WeakMap();

/**
 * Sets the children of a list. An item is built again only if its state changed.
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
