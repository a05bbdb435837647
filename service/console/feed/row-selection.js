/**
 * The selected row of the feed, moved by keys and clicks.
 *
 * The selection remembers the sort key of its alert: if the alert leaves the list, the next move starts where it was.
 */

import { go } from "../ui/router.js";

/** @import { Item } from "./alert-store.js" */
/** @import { VirtualList } from "./virtual-list.js" */

/**
 * @typedef {object} SelectionHost
 * @property {() => readonly Item[]} shown  The rows, oldest first.
 * @property {(id: string) => Item | undefined} find
 * @property {() => void} onSelect
 */

export class RowSelection {
  #scroller;
  #list;
  #host;
  /** @type {{id: string, sortKey: number} | null} */ #selected = null;

  /** @param {HTMLElement} scroller @param {VirtualList} list @param {SelectionHost} host */
  constructor(scroller, list, host) {
    this.#scroller = scroller;
    this.#list = list;
    this.#host = host;
    scroller.addEventListener("keydown", (event) => this.#onKey(event));
    scroller.addEventListener("click", ({ target }) => this.#onClick(/** @type {Element} */ (target)));
  }

  /** The id of the selected alert, whether or not it is still in the list. */
  get id() {
    return this.#selected?.id ?? null;
  }

  /** The id of the selected alert, if it is in the list. */
  get shownId() {
    return this.id && this.#host.find(this.id)?.shown ? this.id : null;
  }

  clear() {
    this.#selected = null;
  }

  /** Selects the row that is so many rows further down. @param {number} by  Negative: further up. */
  move(by) {
    if (this.#host.shown().length) this.#select(this.#current(by) + by);
  }

  /** Selects an alert of the list. @param {Item} item */
  select(item) {
    this.#select(this.#indexOf(item.sortKey));
  }

  /** The row from which a move starts. @param {number} by */
  #current(by) {
    if (!this.#selected) return this.#list.top - Math.sign(by);
    // An alert that left the list was between two rows: the next one up is at its index, not one further.
    const hasLeft = this.shownId === null;
    return this.#indexOf(this.#selected.sortKey) + (hasLeft && by < 0 ? 1 : 0);
  }

  /** @param {number} index  From the top. */
  #select(index) {
    const shown = this.#host.shown();
    const within = Math.max(0, Math.min(index, shown.length - 1));
    const { id, sortKey } = shown[shown.length - 1 - within];
    this.#selected = { id, sortKey };
    this.#scroller.focus({ preventScroll: true });
    this.#list.reveal(within);
    this.#host.onSelect();
  }

  /** The index from the top at which a sort key stands, or would stand. @param {number} sortKey */
  #indexOf(sortKey) {
    const shown = this.#host.shown();
    let [low, high] = [0, shown.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (shown[middle].sortKey < sortKey) low = middle + 1;
      else high = middle;
    }
    return shown.length - 1 - low;
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const { page } = this.#list;
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowDown: () => this.move(1),
      ArrowUp: () => this.move(-1),
      PageDown: () => this.move(page),
      PageUp: () => this.move(-page),
      Home: () => this.#select(0),
      End: () => this.#select(Infinity),
    };
    const isModified = event.ctrlKey || event.altKey || event.metaKey;
    if (!Object.hasOwn(keys, event.key) || isModified || !this.#host.shown().length) return;
    event.preventDefault();
    keys[event.key]();
  }

  /** @param {Element} target */
  #onClick(target) {
    const row = /** @type {HTMLElement | null} */ (target.closest("[data-id]"));
    const item = row?.dataset.id && this.#host.find(row.dataset.id);
    if (!item) return;
    this.select(item);
    go({ name: "alert", id: item.id });
  }
}
