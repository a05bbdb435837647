/**
 * The alerts that are loaded, as far as the feed shows them, in the order in which they were raised.
 *
 * An alert knows the log position at which it is true, and only moves forward. So a page that was loaded while events
 * arrived, and events that are replayed over a newer page, end in the same whichever came first.
 */

/** @import { Prediction } from "../alert/actions.js" */
/** @import { Alert } from "../stream/wire-types.js" */
/** @typedef {Omit<Alert, "body" | "attributes" | "links" | "recipients">} AlertSummary  Thousands are kept. */

/**
 * @typedef {object} Item
 * @property {string} id
 * @property {number} sortKey     The seq of the event that raised it. Alerts with a higher one are above it.
 * @property {number} position  The log position at which this is true.
 * @property {number} seq       The last event that we know of.
 * @property {AlertSummary} alert       Without what is only shown where it is open.
 * @property {Prediction | null} prediction  Where an action leads that is under way.
 * @property {number} version   Counts the changes.
 * @property {boolean} shown    Whether it is in the list.
 * @property {number} changedAt When an event changed it, in ms since the epoch; 0: not while we looked.
 */

/** Without a `place`, an alert that is not loaded yet stands where `seq` is. */
/** @typedef {{position: number, seq: number, isEvent: boolean, sortKey?: number}} UpdateInfo */

const UNLOADED_MAX = 1_000;

export class AlertStore {
  /** @type {Item[]} Oldest first: the newest is the one that comes, and goes to the end. */ #items = [];
  /** @type {Map<string, Item>} */ #byId = new Map();
  /**
   * News of alerts that are not loaded. A page that is on its way may bring them as they were before.
   * @type {Map<string, {alert: Alert, at: UpdateInfo}>}
   */
  #unloaded = new Map();

  /** Oldest first. @type {readonly Item[]} */
  get items() {
    return this.#items;
  }

  /**
   * Takes in alerts, each as it was at a log position, and returns those that this changed.
   * @param {{alert: Alert, at: UpdateInfo}[]} all
   */
  put(all) {
    /** @type {Item[]} */ const added = [];
    /** @type {Item[]} */ const changed = [];
    for (const given of all) {
      const { alert, at } = this.latest(given);
      let item = this.#byId.get(alert.id);
      if (item && at.position <= item.position) continue;
      if (!item) {
        item = newItem(alert, given.at.sortKey ?? given.at.seq);
        added.push(item);
        this.#byId.set(alert.id, item);
        this.#unloaded.delete(alert.id);
      }
      Object.assign(item, { position: at.position, seq: at.seq, alert: summaryOf(alert) });
      item.version += 1;
      if (at.isEvent) item.changedAt = Date.now();
      changed.push(item);
    }
    addInOrder(this.#items, added);
    return changed;
  }

  /** The alert as it is by all that came, loaded or not. @param {{alert: Alert, at: UpdateInfo}} given */
  latest(given) {
    const unloaded = this.#unloaded.get(given.alert.id);
    return unloaded && unloaded.at.position > given.at.position ? unloaded : given;
  }

  /** @param {string} id */
  get(id) {
    return this.#byId.get(id);
  }

  /** What we last learnt of an alert, loaded or not. @param {string} id @returns {AlertSummary | null} */
  known(id) {
    return this.#byId.get(id)?.alert ?? this.#unloaded.get(id)?.alert ?? null;
  }

  /** News of alerts that are not loaded, later than a log position. @param {number} position */
  unloadedAfter(position) {
    return [...this.#unloaded.values()].filter(({ at }) => at.position > position);
  }

  /**
   * Where an alert stands of which we do not know the event that raised it: below all that were not created before it.
   * A batch is created at one moment, so among its alerts this may be too low, and never so high that it seems loaded.
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

  /** What a request says that an alert is now; its event is on its way. @param {Alert} alert */
  applyResponse(alert) {
    const item = this.#byId.get(alert.id);
    if (!item || alert.updated_at < item.alert.updated_at) return;
    item.alert = summaryOf(alert);
    item.version += 1;
  }

  /** Remembers, for a while, what became of an alert that is not loaded. @param {Alert} alert @param {UpdateInfo} at */
  keepUnloaded(alert, at) {
    this.#unloaded.delete(alert.id);
    this.#unloaded.set(alert.id, { alert, at });
    const [oldest] = this.#unloaded.keys();
    if (this.#unloaded.size > UNLOADED_MAX) this.#unloaded.delete(oldest);
  }

  /** Drops what is not to be kept, and returns it. @param {(item: Item) => boolean} keep */
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
 * Adds to a list that is in order. What is new belongs at its end; a page of older ones is one run, sorted in one pass.
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
  const news = { position: -1, seq: sortKey, alert, prediction: null, version: 0 };
  return { id: alert.id, sortKey, shown: false, changedAt: 0, ...news };
}

/** @param {Alert} alert @returns {AlertSummary} */
function summaryOf({ body, attributes, links, recipients, ...kept }) {
  return kept;
}
