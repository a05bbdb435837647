/**
 * The critical alerts that nobody has acknowledged, above the list for as long as that is so.
 *
 * They do not heed the filters: a filter says what one wants to read now, and not that the house may burn meanwhile. All
 * that this admin may see count; the newest few are shown, and a button lists them all.
 */

import { byId, element } from "./dom.js";
import { hashOf } from "./router.js";
import { originOf, titleOf } from "./row.js";
import { age } from "./time.js";

/** @import { Slim } from "./store.js" */

const SHOWN = 3;
const KEPT = 1_000;

export class Pinned {
  #section = byId("pinned");
  #title = byId("pinned-title");
  #all = byId("pinned-all");
  #list = byId("pinned-list");
  /** @type {Map<string, {alert: Slim, place: number}>} */ #alerts = new Map();
  #more = false; // Whether there are some that we do not know.
  #changed = false;

  /**
   * @param {() => void} onAll  Somebody wants the list of all.
   */
  constructor(onAll) {
    this.#all.addEventListener("click", onAll);
  }

  /** Learns of an alert as it is now. @param {Slim} alert @param {number} place */
  learn(alert, place) {
    const waits = alert.severity === "critical" && alert.status === "open";
    if (!waits && !this.#alerts.has(alert.id)) return;
    if (waits) this.#alerts.set(alert.id, { alert, place: this.#alerts.get(alert.id)?.place ?? place });
    else this.#alerts.delete(alert.id);
    this.#changed = true;
    if (this.#alerts.size > KEPT) this.#dropOldest();
  }

  /** There are more than those that we learnt of. */
  haveMore() {
    this.#more = this.#changed = true;
  }

  clear() {
    this.#alerts.clear();
    this.#more = false;
    this.#changed = true;
  }

  /** Brings the page up to date, and returns by how many pixels this moved what is below. */
  render() {
    if (!this.#changed) return 0;
    this.#changed = false;
    const newest = [...this.#alerts.values()].sort((one, other) => other.place - one.place).slice(0, SHOWN);
    const count = this.#alerts.size;
    const isAsHigh = newest.length === this.#list.childElementCount; // Each row has one line, whatever it says.
    const before = isAsHigh ? 0 : this.#height();
    this.#title.textContent = `${count.toLocaleString("en")}${this.#more ? " or more" : ""} critical, not acknowledged`;
    this.#all.hidden = count <= SHOWN && !this.#more;
    this.#section.hidden = count === 0;
    this.#update(newest.map(({ alert }) => alert));
    return isAsHigh ? 0 : this.#height() - before;
  }

  /** Rows that stay, stay: the focus may be on one. @param {Slim[]} alerts */
  #update(alerts) {
    const rows = alerts.map((alert) => {
      const state = JSON.stringify([alert.id, alert.occurrences]);
      const row = [...this.#list.children].find((child) => /** @type {HTMLElement} */ (child).dataset.state === state);
      return row ?? rowOf(alert, state);
    });
    for (const row of [...this.#list.children]) if (!rows.includes(row)) row.remove();
    rows.forEach((row, index) => {
      const there = this.#list.children[index] ?? null;
      if (row !== there) this.#list.insertBefore(row, there);
    });
  }

  /** Far more than can be shown: the oldest are no longer known one by one. */
  #dropOldest() {
    const [id] = [...this.#alerts].reduce((one, other) => (other[1].place < one[1].place ? other : one));
    this.#alerts.delete(id);
    this.#more = true;
  }

  #height() {
    const { height } = this.#section.getBoundingClientRect();
    return height && height + parseFloat(getComputedStyle(this.#section).marginTop);
  }
}

/** @param {Slim} alert @param {string} state */
function rowOf(alert, state) {
  const link = element("a", { class: "pinned-link", href: hashOf({ name: "alert", id: alert.id }) }, titleOf(alert));
  const attributes = { class: "pinned-row", "data-testid": "pinned-alert", "data-state": state };
  return element("li", attributes, link, originOf(alert), age(alert.created_at));
}
