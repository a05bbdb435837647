/**
 * The unacknowledged critical alerts, pinned above the list.
 *
 * Pinned alerts ignore the filters: a filter must never hide an unacknowledged critical alert. The newest few are shown,
 * and a button lists them all.
 */

import { isCritical } from "../stream/severity.js";
import { byId, element } from "../ui/dom.js";
import { renderKeyed } from "../ui/keyed-list.js";
import { age } from "../ui/live-times.js";
import { hashOf } from "../ui/router.js";
import { AlertPages } from "./alert-pages.js";
import { originOf, titleOf } from "./alert-row.js";

/** @import { AlertPage } from "../stream/wire-types.js" */
/** @import { SightingObserver } from "../ui/sighting-observer.js" */
/** @import { FetchPage } from "./alert-pages.js" */
/** @import { AlertSummary, Item, Update } from "./alert-store.js" */

const SHOWN = 3;
const KNOWN_MAX = 1_000;
const CRITICAL = new URLSearchParams({ severity: "critical", status: "open" });

/**
 * @typedef {object} PinnedHost
 * @property {FetchPage} fetchPage
 * @property {SightingObserver} sightings
 * @property {(update: Update) => AlertSummary} newest  The newest known version of an alert.
 * @property {() => void} onChange
 * @property {() => void} onShowAll
 */

export class PinnedAlerts {
  #host;
  #section = byId("pinned");
  #title = byId("pinned-title");
  #all = byId("pinned-all");
  #list = byId("pinned-list");
  /** @type {Map<string, {alert: AlertSummary, sortKey: number}>} */ #alerts = new Map();
  /** Whether there are pinned alerts that are not in `#alerts`. @type {"none" | "some" | "unknown"} */ #others =
    "none";
  /** The request for them. @type {AlertPages | null} */ #pages = null;
  /** The ids of those that may be void, until the request is answered. @type {Set<string>} */ #unconfirmed = new Set();
  #changed = false;

  /** @param {PinnedHost} host */
  constructor(host) {
    this.#host = host;
    this.#all.addEventListener("click", host.onShowAll);
  }

  /** Begins with the newest alerts. @param {readonly Item[]} items @param {AlertPage} page */
  restart(items, page) {
    this.clear();
    for (const { alert, sortKey } of items) this.update(alert, sortKey);
    if (page.next !== null) this.#load();
  }

  /** The list was loaded again. Pinned alerts that are further down stay until they were asked for. @param {readonly Item[]} items @param {AlertPage} page */
  reload(items, page) {
    this.#unconfirmed = new Set(this.#alerts.keys());
    for (const { alert, sortKey } of items) this.update(alert, sortKey);
    if (page.next === null) this.#dropUnconfirmed();
    else this.#load();
  }

  /** The history of the log changed: alerts that were raised after a seq are void. @param {number | null} after */
  invalidate(after) {
    if (after === null) return;
    for (const [id, { sortKey }] of this.#alerts) if (sortKey > after) this.#alerts.delete(id);
    this.#changed = true;
  }

  /** @param {AlertSummary} alert @param {number} sortKey */
  update(alert, sortKey) {
    this.#unconfirmed.delete(alert.id);
    const isPinned = isCritical(alert.severity) && alert.status === "open";
    if (!isPinned && !this.#alerts.has(alert.id)) return;
    if (isPinned) this.#alerts.set(alert.id, { alert, sortKey: this.#alerts.get(alert.id)?.sortKey ?? sortKey });
    else this.#alerts.delete(alert.id);
    this.#changed = true;
    if (this.#alerts.size > KNOWN_MAX) this.#dropOldest();
  }

  /** Whether an alert is known to be pinned. @param {string} id */
  has(id) {
    return this.#alerts.has(id);
  }

  /** The connection is back: asks again if the last request failed. */
  onLive() {
    if (this.#pages?.problem) this.#load();
  }

  clear() {
    this.#pages = null;
    this.#alerts.clear();
    this.#unconfirmed.clear();
    this.#setOthers("none");
  }

  /** Brings the page up to date, and returns by how many pixels this moved what is below. */
  render() {
    if (this.#others === "some" && this.#alerts.size < SHOWN && !this.#pages?.loading) this.#load();
    if (!this.#changed) return 0;
    this.#changed = false;
    const newest = [...this.#alerts.values()].sort((one, other) => other.sortKey - one.sortKey).slice(0, SHOWN);
    const isEmpty = this.#alerts.size === 0 && this.#others === "none";
    // Each row has one line, so the same number of rows has the same height.
    const isAsHigh = newest.length === this.#list.childElementCount && isEmpty === this.#section.hidden;
    const before = isAsHigh ? 0 : this.#height();
    this.#title.textContent = this.#summary();
    this.#all.hidden = this.#alerts.size <= SHOWN && this.#others === "none";
    this.#section.hidden = isEmpty;
    // Existing rows are kept: one may have the focus, or be about to be clicked.
    renderKeyed(
      this.#list,
      newest.map(({ alert }) => ({ key: alert.id, state: "", build: () => this.#rowOf(alert) })),
    );
    for (const [index, { alert }] of newest.entries()) updateRow(this.#list.children[index], alert);
    return isAsHigh ? 0 : this.#height() - before;
  }

  /** @param {AlertSummary} alert */
  #rowOf(alert) {
    const row = rowOf(alert);
    this.#host.sightings.observe(row, alert.id);
    return row;
  }

  /** Loads pinned alerts that may be far down in the list. */
  async #load() {
    const pages = new AlertPages(CRITICAL);
    this.#pages = pages;
    const page = await pages.fetchNext(this.#host.fetchPage);
    if (pages !== this.#pages) return; // A later request replaced this one.
    if (page) pages.add(page);
    for (const { seq, ...alert } of page?.alerts ?? []) {
      const at = { position: page?.head ?? 0, seq, isEvent: false };
      this.update(this.#host.newest({ alert, at }), seq);
    }
    if (page) this.#dropUnconfirmed();
    this.#setOthers(pages.problem ? "unknown" : pages.hasMore ? "some" : "none");
    this.#host.onChange();
  }

  #dropUnconfirmed() {
    for (const id of this.#unconfirmed) this.#alerts.delete(id);
    this.#unconfirmed.clear();
    this.#setOthers("none");
  }

  /** @param {"none" | "some" | "unknown"} others */
  #setOthers(others) {
    this.#others = others;
    this.#changed = true;
  }

  #summary() {
    const count = this.#alerts.size;
    if (!count && this.#others === "unknown") return "Critical alerts could not all be loaded";
    const known = `${count.toLocaleString("en")}${this.#others === "none" ? "" : " or more"}`;
    return `${count ? known : "More"} critical, not acknowledged`;
  }

  /** Bounds memory: the oldest are no longer known one by one. */
  #dropOldest() {
    const [id] = [...this.#alerts].reduce((one, other) => (other[1].sortKey < one[1].sortKey ? other : one));
    this.#alerts.delete(id);
    this.#others = "some";
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

/** Updates what may change while an alert is pinned. @param {Element} row @param {AlertSummary} alert */
function updateRow(row, alert) {
  const origin = originOf(alert);
  const before = row.querySelector(".origin");
  if (before && !before.isEqualNode(origin)) before.replaceWith(origin);
}
