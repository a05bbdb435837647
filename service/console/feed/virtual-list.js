/**
 * A list that keeps only the visible rows in the document.
 *
 *     scroller (listbox, has the focus)
 *       └ sizer (as high as all rows)
 *           └ window (moved to the position of its first row)
 *               └ the rows in view, and some before and after
 *
 * The row height comes from `--row-height` of the style sheet. The focus stays on the scroller, which names the selected
 * row: a row with the focus would lose it when it is scrolled out of view.
 */

import { element } from "../ui/dom.js";
import { AlertRow } from "./alert-row.js";
import { firstWholeRow, rowsPerPage, rowsToRender, scrollTopToReveal } from "./row-range.js";

/** @import { SightingObserver } from "../ui/sighting-observer.js" */
/** @import { Item } from "./alert-store.js" */

export class VirtualList {
  #scroller;
  #sightings;
  #sizer = element("div", { class: "feed-sizer", role: "presentation" });
  #window = element("div", { class: "feed-window", role: "presentation" });
  /** @type {readonly Item[]} Oldest first: the last is on top. */ #items = [];
  /** @type {Map<string, AlertRow>} */ #rows = new Map();
  /** @type {string | null} */ #selected = null;
  #rowHeight = 0;
  /** The position after the last row that is in the document. */ end = 0;
  #complete = true;

  /**
   * @param {HTMLElement} scroller
   * @param {SightingObserver} sightings
   * @param {() => void} onView  The visible range changed, by scrolling or resizing.
   */
  constructor(scroller, sightings, onView) {
    this.#scroller = scroller;
    this.#sightings = sightings;
    this.#sizer.append(this.#window);
    scroller.append(this.#sizer);
    scroller.addEventListener("scroll", onView, { passive: true });
    new ResizeObserver(() => {
      this.#measure();
      onView();
    }).observe(scroller);
  }

  get #viewport() {
    const { scrollTop, clientHeight } = this.#scroller;
    return { scrollTop, clientHeight, rowHeight: this.#rowHeight };
  }

  /** The first row that is wholly in view. */
  get top() {
    return firstWholeRow(this.#viewport);
  }

  get isAtTop() {
    return this.#scroller.scrollTop < 1;
  }

  /** By how many rows Page Down moves, at least 1. */
  get page() {
    return rowsPerPage(this.#viewport);
  }

  /**
   * @param {readonly Item[]} items  Oldest first.
   * @param {boolean} complete       Whether there are no others.
   * @param {string | null} selected
   */
  show(items, complete, selected) {
    this.#items = items;
    this.#complete = complete;
    this.#selected = selected;
    if (!this.#rowHeight) this.#measure();
    const { first, last } = rowsToRender(this.#viewport, items.length);
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

  /** Scrolls a row into view. @param {number} index  From the top. */
  reveal(index) {
    this.#scroller.scrollTop = scrollTopToReveal(this.#viewport, index);
  }

  /** @param {number} rows */
  scrollByRows(rows) {
    this.#scroller.scrollTop += rows * this.#rowHeight;
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
    const items = Array.from({ length: last - first }, (_, index) => this.#itemAt(first + index));
    const visible = new Set(items.map(({ id }) => id));
    for (const [id, row] of this.#rows) {
      if (visible.has(id)) continue;
      row.element.remove();
      this.#rows.delete(id);
    }
    const size = this.#complete ? this.#items.length : -1; // -1: unknown (WAI-ARIA).
    /** @type {Element | null} */ let next = this.#window.firstElementChild;
    for (const [index, item] of items.entries()) {
      const row = this.#rows.get(item.id) ?? this.#add(item);
      row.update(item);
      row.setPosition(first + index + 1, size, item.id === this.#selected);
      if (row.element === next) next = next.nextElementSibling;
      else this.#window.insertBefore(row.element, next);
    }
  }

  /** @param {Item} item */
  #add(item) {
    const row = new AlertRow(item.id);
    this.#rows.set(item.id, row);
    this.#sightings.observe(row.element, item.id);
    return row;
  }

  /** @param {number} index  From the top. */
  #itemAt(index) {
    return this.#items[this.#items.length - 1 - index];
  }
}
