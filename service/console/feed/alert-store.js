/**
 * The loaded alerts, without what the feed does not show, in the order in which they were raised.
 *
 * Each alert knows the log position at which it is true, and only moves forward. So a page that was loaded while events
 * arrived, and events that are replayed over a newer page, lead to the same result in any order.
 */

/** @import { Prediction } from "../alert/actions.js" */
/** @import { Alert } from "../stream/wire-types.js" */
/** @typedef {Omit<Alert, "body" | "attributes" | "links" | "recipients">} AlertSummary  Thousands are kept. */

/**
 * @typedef {object} Item
 * @property {string} id
 * @property {number} sortKey   The seq of the event that raised it. Alerts with a higher one are above it.
 * @property {number} position  The log position at which this is true.
 * @property {number} seq       The last known event.
 * @property {AlertSummary} alert
 * @property {Prediction | null} prediction  What a running action will lead to.
 * @property {number} version   Counts the changes.
 * @property {boolean} shown    Whether it is in the list.
 * @property {number} changedAt When an event changed it, in ms since the epoch; 0: no event has since the page opened.
 */

/** An alert that is not loaded yet gets the `sortKey`, or else `seq`. */
/** @typedef {{position: number, seq: number, isEvent: boolean, sortKey?: number}} UpdateInfo */
/** @typedef {{alert: Alert, at: UpdateInfo}} Update */

const UNLOADED_MAX = 1_000;

export class AlertStore {
  /** @type {Item[]} Oldest first: a new alert goes to the end. */ #items = [];
  /** @type {Map<string, Item>} */ #byId = new Map();
  /** Events of alerts that are not loaded: a page on its way may bring older versions. @type {Map<string, Update>} */
  #unloaded = new Map();

  /** Oldest first. @type {readonly Item[]} */
  get items() {
    return this.#items;
  }

  /** Stores alerts, each as it was at a log position, and returns the items that changed. @param {Update[]} updates */
  put(updates) {
    /** @type {Item[]} */ const added = [];
    /** @type {Item[]} */ const changed = [];
    for (const update of updates) {
      const { alert, at } = this.#latest(update);
      let item = this.#byId.get(alert.id);
      if (item && at.position <= item.position) continue;
      if (!item) {
        item = newItem(alert, update.at.sortKey ?? update.at.seq);
        added.push(item);
        this.#byId.set(alert.id, item);
        this.#unloaded.delete(alert.id);
      }
      const summary = summaryOf(alert);
      if (at.isEvent || item.version === 0 || !isSame(summary, item.alert)) item.version += 1;
      Object.assign(item, { position: at.position, seq: at.seq, alert: summary });
      if (at.isEvent) item.changedAt = Date.now();
      changed.push(item);
    }
    addInOrder(this.#items, added);
    return changed;
  }

  /** The newest known version of an alert. @param {Update} update @returns {AlertSummary} */
  newest(update) {
    const item = this.#byId.get(update.alert.id);
    return item && item.position > update.at.position ? item.alert : this.#latest(update).alert;
  }

  /** @param {Update} update */
  #latest(update) {
    const unloaded = this.#unloaded.get(update.alert.id);
    return unloaded && unloaded.at.position > update.at.position ? unloaded : update;
  }

  /** @param {string} id */
  get(id) {
    return this.#byId.get(id);
  }

  /** The last known version of an alert, loaded or not. @param {string} id @returns {AlertSummary | null} */
  known(id) {
    return this.#byId.get(id)?.alert ?? this.#unloaded.get(id)?.alert ?? null;
  }

  /** Events of alerts that are not loaded, later than a log position. @param {number} position */
  unloadedAfter(position) {
    return [...this.#unloaded.values()].filter(({ at }) => at.position > position);
  }

  /**
   * A sort key for an alert whose raising event is unknown: below all alerts that were not created before it. The alerts
   * of a batch are created at one moment, so among them this may be too low, but never so high that it seems loaded.
   * @param {Alert} alert
   */
  sortKeyOf({ created_at }) {
    const index = this.#items.findIndex(({ alert }) => alert.created_at >= created_at);
    const below = (index < 0 ? this.#items.at(-1) : this.#items[index - 1])?.sortKey ?? 0;
    const above = index < 0 ? Math.floor(below) + 1 : this.#items[index].sortKey;
    return (below + above) / 2;
  }

  /** @param {string} id @param {Prediction | null} prediction */
  predict(id, prediction) {
    const item = this.#byId.get(id);
    if (!item) return;
    item.prediction = prediction;
    item.version += 1;
  }

  /** Stores an alert as a response shows it; its event follows on the stream. @param {Alert} alert */
  applyResponse(alert) {
    const item = this.#byId.get(alert.id);
    if (!item || alert.updated_at < item.alert.updated_at) return;
    item.alert = summaryOf(alert);
    item.version += 1;
  }

  /** Remembers the newest events of alerts that are not loaded. @param {Alert} alert @param {UpdateInfo} at */
  keepUnloaded(alert, at) {
    this.#unloaded.delete(alert.id);
    this.#unloaded.set(alert.id, { alert, at });
    const [oldest] = this.#unloaded.keys();
    if (this.#unloaded.size > UNLOADED_MAX) this.#unloaded.delete(oldest);
  }

  /**
   * The history of the log changed: what is known after a seq is void, or, with null, all of it. Returns the alerts that
   * were raised later; they are dropped. Of others, what was changed later stays until any other version comes.
   * @param {number | null} after
   */
  invalidate(after) {
    const isVoid = (/** @type {number} */ position) => after === null || position > after;
    for (const item of this.#items) if (isVoid(item.position)) item.position = -1;
    for (const [id, { at }] of this.#unloaded) if (isVoid(at.position)) this.#unloaded.delete(id);
    return after === null ? [] : this.retain(({ sortKey }) => sortKey <= after);
  }

  /** Drops the items that are not to be kept, and returns them. @param {(item: Item) => boolean} keep */
  retain(keep) {
    const dropped = this.#items.filter((item) => !keep(item));
    if (dropped.length) this.#items = this.#items.filter(keep);
    for (const { id } of dropped) this.#byId.delete(id);
    return dropped;
  }

  clear() {
    this.#items = [];
    this.#byId.clear();
    this.#unloaded.clear();
  }
}

/**
 * Adds items to a list that is in order. New alerts belong at its end; a page of older ones is sorted in one pass.
 * @param {Item[]} list
 * @param {Item[]} added
 */
export function addInOrder(list, added) {
  const last = list.at(-1)?.sortKey ?? -1;
  for (const item of added) list.push(item);
  const inOrder = added.every(({ sortKey }, index) => sortKey > (index ? added[index - 1].sortKey : last));
  if (!inOrder) list.sort((one, other) => one.sortKey - other.sortKey);
}

/** @param {Alert} alert @param {number} sortKey @returns {Item} */
function newItem(alert, sortKey) {
  const state = { position: -1, seq: sortKey, alert, prediction: null, version: 0 };
  return { id: alert.id, sortKey, shown: false, changedAt: 0, ...state };
}

/** @param {Alert} alert @returns {AlertSummary} */
function summaryOf({ body, attributes, links, recipients, ...kept }) {
  return kept;
}

/** @param {AlertSummary} one @param {AlertSummary} other */
function isSame(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}
