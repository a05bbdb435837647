/**
 * A list of which only what is visible is in the document: rows of one height, so that where each stands is arithmetic.
 *
 *     scroller (listbox, takes the focus)
 *       └ sizer (as high as all rows)
 *           └ window (moved to where its first row belongs)
 *               └ rows in view, and some before and after
 *
 * The row height comes from `--row-height` of the style sheet. The focus stays on the scroller, which names the selected
 * row: a row that had the focus would lose it by being scrolled away.
 */

import { element } from "../ui/dom.js";
import { AlertRow } from "./alert-row.js";

/** @import { Item } from "./alert-store.js" */

const MARGIN_ROWS = 4;

export class VirtualList {
  #scroller;
  #sizer = element("div", { class: "feed-sizer", role: "presentation" });
  #window = element("div", { class: "feed-window", role: "presentation" });
  /** @type {readonly Item[]} Oldest first: the last is on top. */ #items = [];
  /** @type {Map<string, AlertRow>} */ #rows = new Map();
  /** @type {string | null} */ #selected = null;
  #rowHeight = 0;
  /** The position after that of the last row that is in the document. */ end = 0;
  #complete = true;

  /**
   * @param {HTMLElement} scroller
   * @param {() => void} onView  What is in view changed, by scrolling or by another size.
   */
  constructor(scroller, onView) {
    this.#scroller = scroller;
    this.#sizer.append(this.#window);
    scroller.append(this.#sizer);
    scroller.addEventListener("scroll", onView, { passive: true });
    new ResizeObserver(() => {
      this.#measure();
      onView();
    }).observe(scroller);
  }

  /** The rows in view and those beside them, as positions from the top. */
  #range() {
    const { scrollTop, clientHeight } = this.#scroller;
    if (!this.#rowHeight) return { first: 0, last: 0 };
    // The list may have become shorter, of which the browser's scroll position will only learn in its next layout.
    const inView = Math.ceil(clientHeight / this.#rowHeight) + 1;
    const top = Math.max(0, Math.min(Math.floor(scrollTop / this.#rowHeight), this.#items.length - inView));
    const last = Math.min(this.#items.length, top + inView + MARGIN_ROWS);
    return { first: Math.max(0, top - MARGIN_ROWS), last };
  }

  /** The first row that is wholly in view. */
  get top() {
    return this.#rowHeight ? Math.ceil(this.#scroller.scrollTop / this.#rowHeight) : 0;
  }

  get isAtTop() {
    return this.#scroller.scrollTop < 1;
  }

  /** How many rows fit, at least 1. */
  get page() {
    return Math.max(1, Math.floor(this.#scroller.clientHeight / (this.#rowHeight || 1)) - 1);
  }

  /**
   * @param {readonly Item[]} items  Oldest first.
   * @param {boolean} complete       Whether these are all that there are.
   * @param {string | null} selected
   */
  show(items, complete, selected) {
    this.#items = items;
    this.#complete = complete;
    this.#selected = selected;
    if (!this.#rowHeight) this.#measure();
    const { first, last } = this.#range();
    this.end = last;
    this.#sizer.style.height = `${items.length * this.#rowHeight}px`;
    this.#window.style.transform = `translateY(${first * this.#rowHeight}px)`;
    this.#render(first, last);
    const active = selected ? this.#rows.get(selected) : null;
    if (active) this.#scroller.setAttribute("aria-activedescendant", active.element.id);
    else this.#scroller.removeAttribute("aria-activedescendant");
  }

  scrollToTop() {
    this.#scroller.scrollTop = 0;
  }

  /** Scrolls as little as brings a row into view. @param {number} index  From the top. */
  reveal(index) {
    const top = index * this.#rowHeight;
    const { scrollTop, clientHeight } = this.#scroller;
    if (top < scrollTop) this.#scroller.scrollTop = top;
    else if (top + this.#rowHeight > scrollTop + clientHeight) {
      this.#scroller.scrollTop = top + this.#rowHeight - clientHeight;
    }
  }

  /** @param {number} px */
  scrollBy(px) {
    this.#scroller.scrollTop += px;
  }

  /** Another width may mean another row height: the same row stays on top. */
  #measure() {
    const height = parseFloat(getComputedStyle(this.#scroller).getPropertyValue("--row-height")) || 0;
    if (height === this.#rowHeight) return;
    const top = this.#rowHeight && this.#scroller.scrollTop / this.#rowHeight;
    this.#rowHeight = height;
    this.#sizer.style.height = `${this.#items.length * height}px`;
    this.#scroller.scrollTop = top * height;
  }

  /** @param {number} first @param {number} last */
  #render(first, last) {
    const visible = new Set();
    for (let index = first; index < last; index += 1) visible.add(this.#itemAt(index).id);
    for (const [id, row] of this.#rows) {
      if (visible.has(id)) continue;
      row.element.remove();
      this.#rows.delete(id);
    }
    const size = this.#complete ? this.#items.length : -1; // -1: nobody knows how many there are.
    /** @type {Element | null} */ let next = this.#window.firstElementChild;
    for (let index = first; index < last; index += 1) {
      const item = this.#itemAt(index);
      const row = this.#rows.get(item.id) ?? this.#add(item);
      row.update(item);
      row.setPosition(index + 1, size, item.id === this.#selected);
      if (row.element === next) next = next.nextElementSibling;
      else this.#window.insertBefore(row.element, next);
    }
  }

  /** @param {Item} item */
  #add(item) {
    const row = new AlertRow(item.id);
    this.#rows.set(item.id, row);
    return row;
  }

  /** @param {number} index  From the top. */
  #itemAt(index) {
    return this.#items[this.#items.length - 1 - index];
  }
}
