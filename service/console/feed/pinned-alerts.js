/**
 * The critical alerts that nobody has acknowledged, above the list for as long as that is so.
 *
 * They do not heed the filters: a filter says what one wants to read now, and not that the house may burn meanwhile. All
 * that this admin may see count; the newest few are shown, and a button lists them all.
 */

import { byId, element } from "../ui/dom.js";
import { renderKeyed } from "../ui/keyed-list.js";
import { age } from "../ui/live-times.js";
import { hashOf } from "../ui/router.js";
import { originOf, titleOf } from "./alert-row.js";

/** @import { AlertSummary } from "./alert-store.js" */

const SHOWN = 3;
const KEPT = 1_000;

export class PinnedAlerts {
  #section = byId("pinned");
  #title = byId("pinned-title");
  #all = byId("pinned-all");
  #list = byId("pinned-list");
  /** @type {Map<string, {alert: AlertSummary, sortKey: number}>} */ #alerts = new Map();
  /** Whether there are some that we do not know one by one. @type {"none" | "some" | "unknown"} */ #unloaded = "none";
  #changed = false;

  /**
   * @param {() => void} onAll  Somebody wants the list of all.
   */
  constructor(onAll) {
    this.#all.addEventListener("click", onAll);
  }

  /** Learns of an alert as it is now. @param {AlertSummary} alert @param {number} sortKey */
  update(alert, sortKey) {
    const isPinned = alert.severity === "critical" && alert.status === "open";
    if (!isPinned && !this.#alerts.has(alert.id)) return;
    if (isPinned) this.#alerts.set(alert.id, { alert, sortKey: this.#alerts.get(alert.id)?.sortKey ?? sortKey });
    else this.#alerts.delete(alert.id);
    this.#changed = true;
    if (this.#alerts.size > KEPT) this.#dropOldest();
  }

  /** Whether an alert is known to be pinned. @param {string} id */
  has(id) {
    return this.#alerts.has(id);
  }

  /** Whether others would have to be shown, if we knew them. */
  get needsMore() {
    return this.#unloaded === "some" && this.#alerts.size < SHOWN;
  }

  /** Says whether there are more than those that we learnt of. @param {"none" | "some" | "unknown"} unloaded */
  setUnloaded(unloaded) {
    this.#unloaded = unloaded;
    this.#changed = true;
  }

  clear() {
    this.#alerts.clear();
    this.setUnloaded("none");
  }

  /** Brings the page up to date, and returns by how many pixels this moved what is below. */
  render() {
    if (!this.#changed) return 0;
    this.#changed = false;
    const newest = [...this.#alerts.values()].sort((one, other) => other.sortKey - one.sortKey).slice(0, SHOWN);
    const isEmpty = this.#alerts.size === 0 && this.#unloaded === "none";
    // Each row has one line, whatever it says.
    const isAsHigh = newest.length === this.#list.childElementCount && isEmpty === this.#section.hidden;
    const before = isAsHigh ? 0 : this.#height();
    this.#title.textContent = this.#summary();
    this.#all.hidden = this.#alerts.size <= SHOWN && this.#unloaded === "none";
    this.#section.hidden = isEmpty;
    // Rows that stay, stay: the focus may be on one, or somebody is just about to click it.
    renderKeyed(
      this.#list,
      newest.map(({ alert }) => ({ key: alert.id, state: "", build: () => rowOf(alert) })),
    );
    for (const [index, { alert }] of newest.entries()) update(this.#list.children[index], alert);
    return isAsHigh ? 0 : this.#height() - before;
  }

  #summary() {
    const count = this.#alerts.size;
    if (!count && this.#unloaded === "unknown") return "Critical alerts could not all be loaded";
    const known = `${count.toLocaleString("en")}${this.#unloaded === "none" ? "" : " or more"}`;
    return `${count ? known : "More"} critical, not acknowledged`;
  }

  /** Far more than can be shown: the oldest are no longer known one by one. */
  #dropOldest() {
    const [id] = [...this.#alerts].reduce((one, other) => (other[1].sortKey < one[1].sortKey ? other : one));
    this.#alerts.delete(id);
    this.#unloaded = "some";
  }

  #height() {
    const { height } = this.#section.getBoundingClientRect();
    return height && height + parseFloat(getComputedStyle(this.#section).marginTop);
  }
}

/** @param {AlertSummary} alert */
function rowOf(alert) {
  const link = element("a", { class: "pinned-link", href: hashOf({ name: "alert", id: alert.id }) }, titleOf(alert));
  const attributes = { class: "pinned-row", "data-testid": "pinned-alert" };
  return element("li", attributes, link, originOf(alert), age(alert.created_at));
}

/** Writes into a row what may change of an alert for as long as it is pinned. @param {Element} row @param {AlertSummary} alert */
function update(row, alert) {
  const origin = originOf(alert);
  const before = row.querySelector(".origin");
  if (before && !before.isEqualNode(origin)) before.replaceWith(origin);
}
