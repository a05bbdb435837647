/**
 * The live list: newest alerts first, one row an alert, at most 500 of them.
 *
 * A row knows the log position at which it is true, and only moves forward. So a list that was loaded while events
 * arrived, and events that are replayed over a newer list, end in the same rows whichever came first.
 */

import { Row } from "./row.js";
import { keepAgesCurrent } from "./time.js";

/** @import { Alert, AlertPage, EventFrame } from "./wire.js" */
/** @import { Prediction } from "./actions.js" */

const MAX_ROWS = 500;

export class Feed {
  #list;
  #empty;
  /** @type {Row[]} In the order of the page. */ #rows = [];
  /** @type {Map<string, Row>} */ #byId = new Map();
  #selected = "";

  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} empty  Stands in for alerts while there are none.
   */
  constructor(list, empty) {
    this.#list = list;
    this.#empty = empty;
    keepAgesCurrent(list);
    list.addEventListener("focusin", ({ target }) => {
      const row = /** @type {HTMLElement} */ (target).closest("[data-id]");
      this.#selected = /** @type {HTMLElement | null} */ (row)?.dataset.id ?? "";
    });
  }

  /** Puts a page of alerts where they belong. @param {AlertPage} page */
  show({ alerts, head }) {
    for (const { seq, ...alert } of alerts) this.#put(alert, { position: head, seq });
    this.explain("No alerts. A new one appears here the moment it is raised.");
  }

  /** Says what stands in the place of alerts, while there are none. @param {string} text */
  explain(text) {
    this.#empty.textContent = text;
    this.#empty.hidden = this.#rows.length > 0;
  }

  /** Shows what an event did: a new row, or a change of one. @param {EventFrame} event */
  apply(event) {
    this.#put(event.alert, { position: event.seq, seq: event.seq, event });
  }

  /** An alert of the list, as far as it is known. @param {string} id */
  find(id) {
    return this.#byId.get(id)?.alert ?? null;
  }

  /** The id of the alert that is selected. */
  get selected() {
    return this.#byId.has(this.#selected) ? this.#selected : null;
  }

  /** Selects the row that is so many rows further down. @param {number} by  Negative: further up. */
  move(by) {
    const from = this.#rows.findIndex(({ element }) => element.dataset.id === this.#selected);
    const to = Math.max(0, Math.min(from + by, this.#rows.length - 1));
    if (this.#rows.length) this.reveal(this.#rows[to].element.dataset.id ?? "");
  }

  /** Selects an alert, and scrolls to it. Returns whether it is in the list. @param {string} id */
  reveal(id) {
    const row = this.#byId.get(id);
    if (!row) return false;
    this.#selected = id;
    row.focus();
    return true;
  }

  /** Where an action leads that is under way; null: it is over. @param {string} id @param {Prediction | null} prediction */
  predict(id, prediction) {
    this.#byId.get(id)?.predict(prediction);
  }

  /** What a request says that an alert is now. @param {Alert} alert */
  take(alert) {
    this.#byId.get(alert.id)?.take(alert);
  }

  clear() {
    this.#rows = [];
    this.#byId.clear();
    this.#list.replaceChildren();
    this.#empty.hidden = true;
  }

  /**
   * @param {Alert} alert
   * @param {{position: number, seq: number, event?: EventFrame}} at
   */
  #put(alert, at) {
    const row = this.#byId.get(alert.id) ?? this.#insert(new Row(alert, at.seq));
    row.update(alert, at);
  }

  /** @param {Row} row */
  #insert(row) {
    // A new alert belongs on top, so this looks at one row; only those of a reloaded page go further down.
    const found = this.#rows.findIndex((other) => other.place < row.place);
    const index = found < 0 ? this.#rows.length : found;
    this.#list.insertBefore(row.element, this.#rows[index]?.element ?? null);
    this.#rows.splice(index, 0, row);
    this.#byId.set(row.element.dataset.id ?? "", row);
    this.#empty.hidden = true;
    if (this.#rows.length > MAX_ROWS) this.#dropLast();
    return row;
  }

  #dropLast() {
    const last = this.#rows.pop();
    last?.element.remove();
    this.#byId.delete(last?.element.dataset.id ?? "");
  }
}
