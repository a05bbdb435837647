/**
 * The live list: which of the loaded alerts are shown, newest first, and when new ones may come in.
 *
 *     events, pages -> Store -> (filters) -> pending -> shown -> VirtualList
 *                                             held back while somebody reads further down, or has a row selected
 *
 * All that came since the last frame is shown in the next one. Memory is bounded: beyond LOADED_MAX the oldest go.
 */

import { byId } from "../ui/dom.js";
import { keepAgesCurrent } from "../ui/live-times.js";
import { go } from "../ui/router.js";
import { AlertPages } from "./alert-pages.js";
import { AlertStore, addInOrder } from "./alert-store.js";
import { FeedStatus } from "./feed-status.js";
import { FilterBar } from "./filter-bar.js";
import { containsText, NO_FILTERS, passes, toQuery } from "./filters.js";
import { shouldNotify } from "./notify-rules.js";
import { PinnedAlerts } from "./pinned-alerts.js";
import { VirtualList } from "./virtual-list.js";

/** @import { Prediction } from "../alert/actions.js" */
/** @import { FilterableAlert } from "./filters.js" */
/** @import { FetchPage } from "./alert-pages.js" */
/** @import { UpdateInfo, Item } from "./alert-store.js" */
/** @import { Alert, AlertPage, EventFrame } from "../stream/wire-types.js" */

const LOADED_MAX = 60_000;
const PAGED_MAX = 50_000; // By scrolling; the rest is for what arrives.
const DROPPED_AT_ONCE = 1_000;
const NEAR_END = 20;
const CRITICAL = new URLSearchParams({ severity: "critical", status: "open" });
const ALL_PINNED = {
  ...NO_FILTERS,
  severity: /** @type {const} */ ("critical"),
  status: /** @type {const} */ ("open"),
};

export class Feed {
  #fetchPage;
  #scroller = byId("feed");
  #newButton = byId("arrivals");
  #store = new AlertStore();
  #list = new VirtualList(this.#scroller, () => this.#scheduleRender());
  #pinned = new PinnedAlerts(() => this.#bar.set(ALL_PINNED));
  #bar = new FilterBar(() => this.#applyFilters());
  #unfiltered = new AlertPages(new URLSearchParams());
  /** Those to be pinned, as they were asked for last. @type {AlertPages | null} */ #critical = null;
  /** The filtered alerts, as the server finds them. @type {AlertPages | null} */ #filtered = null;
  /** What the server, or a whole event, showed to have the words. @type {Set<string>} */ #foundByServer = new Set();
  /** Oldest first. @type {Item[]} */ #shown = [];
  /** Those that are to join the list, or to leave it. @type {Set<Item>} */ #pending = new Set();
  /** @type {{id: string, sortKey: number} | null} */ #selected = null;
  #status = new FeedStatus(
    () => this.#clearFilters(),
    () => this.#retry(),
  );
  #session = 0; // What was asked for in an earlier one is not shown in this.
  #animationFrame = 0;

  /** @param {FetchPage} fetchPage  Asks the server for a page of alerts. */
  constructor(fetchPage) {
    this.#fetchPage = fetchPage;
    keepAgesCurrent(/** @type {HTMLElement} */ (this.#scroller.closest("section")));
    this.#scroller.addEventListener("keydown", (event) => this.#onKey(event));
    this.#scroller.addEventListener("blur", () => this.#scheduleRender());
    this.#scroller.addEventListener("click", ({ target }) => this.#onClick(/** @type {Element} */ (target)));
    this.#newButton.addEventListener("click", () => this.showPending());
  }

  /** Begins with the newest alerts, as a page shows them. @param {AlertPage} page */
  show(page) {
    this.#session += 1;
    this.#unfiltered = new AlertPages(new URLSearchParams());
    this.#unfiltered.take(page);
    this.#storePage(page);
    const ids = new Set(page.alerts.map(({ id }) => id));
    this.#forget(this.#store.retain((item) => item.position > page.head || ids.has(item.id)));
    this.#clearPinned();
    for (const { alert, sortKey } of this.#store.items) this.#pinned.update(alert, sortKey);
    if (page.next !== null) this.#loadPinned();
    this.#applyFilters();
  }

  /** Says what stands in the place of alerts, before the first page came. @param {string} text */
  explain(text) {
    this.#status.explain(text);
    this.#scheduleRender();
  }

  /** Shows what an event did: a new row, or a change of one. Returns whether it calls somebody. @param {EventFrame} event */
  applyEvent(event) {
    const { alert, seq } = event;
    const isNew = shouldNotify(event, this.#store.known(alert.id), this.#pinned.has(alert.id));
    const at = { position: seq, seq, isEvent: true };
    this.#scheduleRender();
    if (isNew || this.#store.get(alert.id)) this.#applyUpdate(alert, at);
    else this.#applyUnloaded(alert, at);
    return isNew;
  }

  /** Whether an alert is news to somebody with these filters: if it passes them, or is critical. @param {Alert} alert */
  matchesFilters(alert) {
    const { filters } = this.#bar;
    return alert.severity === "critical" || (passes(filters, alert) && containsText(filters.text, alert));
  }

  /** The connection is back: asks again for what did not come meanwhile. */
  onLive() {
    for (const pages of [this.#unfiltered, this.#filtered]) if (pages) pages.problem = null;
    if (this.#critical?.problem) this.#loadPinned();
    this.#scheduleRender();
  }

  clear() {
    this.#session += 1;
    this.#forget(this.#store.items);
    this.#store.clear();
    this.#foundByServer.clear();
    this.#unfiltered = new AlertPages(new URLSearchParams());
    this.#filtered = this.#selected = null;
    this.#shown = [];
    this.#clearPinned();
    this.#bar.forgetSuggestions();
    this.#status.explain("");
    this.#render();
  }

  /** Selects the row that is so many rows further down, and scrolls to it. @param {number} by  Negative: further up. */
  move(by) {
    if (!this.#shown.length) return;
    this.#select(this.#currentIndex(by) + by);
  }

  /** Where one is in the list who goes on from here. @param {number} by */
  #currentIndex(by) {
    if (!this.#selected) return this.#list.top - Math.sign(by);
    // One that has left the list stood between two rows: the next one up is where it would be, not one further.
    const hasLeft = this.selected === null;
    return this.#indexOf(this.#selected.sortKey) + (hasLeft && by < 0 ? 1 : 0);
  }

  /** The id of the alert that is selected. */
  get selected() {
    const id = this.#selected?.id;
    return id && this.#store.get(id)?.shown ? id : null;
  }

  /** An alert that is loaded, as far as it is known. @param {string} id */
  find(id) {
    return this.#store.get(id)?.alert ?? null;
  }

  /** Selects an alert, and scrolls to it. Returns whether it is in the list. @param {string} id */
  reveal(id) {
    const item = this.#store.get(id);
    if (!item?.shown) return false;
    this.#select(this.#indexOf(item.sortKey));
    return true;
  }

  /** Where an action leads that is under way; null: it is over. @param {string} id @param {Prediction | null} prediction */
  predict(id, prediction) {
    this.#store.predict(id, prediction);
    this.#scheduleRender();
  }

  /** What a request says that an alert is now. @param {Alert} alert */
  applyResponse(alert) {
    this.#store.applyResponse(alert);
    this.#scheduleRender();
  }

  /** Shows what was held back, from the top. */
  showPending() {
    this.#selected = null;
    this.#list.scrollToTop();
    this.#applyPending();
    this.#scroller.focus({ preventScroll: true });
    this.#render();
  }

  get #pages() {
    return this.#filtered ?? this.#unfiltered;
  }

  /** From here on, every alert that passes the filters is loaded. */
  get #loadedDownTo() {
    if (!this.#filtered) return this.#unfiltered.loadedDownTo;
    // Of loaded alerts we do not have every word, so once the server has answered, it is its answer that counts.
    if (this.#bar.filters.text && this.#filtered.answered) return this.#filtered.loadedDownTo;
    return Math.min(this.#unfiltered.loadedDownTo, this.#filtered.loadedDownTo);
  }

  /** Whether what is new would move what somebody reads. */
  get #isHoldingBack() {
    return !this.#list.isAtTop || (this.#selected !== null && document.activeElement === this.#scroller);
  }

  /** @param {Pick<Item, "id" | "sortKey"> & {alert: FilterableAlert}} item */
  #matches({ id, sortKey, alert }) {
    const { filters } = this.#bar;
    if (sortKey < this.#loadedDownTo || !passes(filters, alert)) return false;
    return !filters.text || this.#foundByServer.has(id) || containsText(filters.text, alert);
  }

  /** Takes in what an event says of an alert that is in the list, or belongs there. @param {Alert} alert @param {UpdateInfo} at */
  #applyUpdate(alert, at) {
    const [item] = this.#store.put([{ alert, at }]);
    if (!item) return;
    this.#bar.suggest(alert.topic);
    this.#pinned.update(item.alert, item.sortKey);
    const { text } = this.#bar.filters;
    if (text && containsText(text, alert)) this.#foundByServer.add(item.id);
    if (this.#matches(item) === item.shown) this.#pending.delete(item);
    else this.#pending.add(item);
    if (this.#store.items.length > LOADED_MAX) this.#dropOldest();
  }

  /**
   * Takes in news of an alert that is not loaded. By them it may have come to pass the filters: then it joins the list at
   * its place, if all that is about there is loaded.
   * @param {Alert} alert
   * @param {UpdateInfo} at
   */
  #applyUnloaded(alert, at) {
    const sortKey = this.#store.sortKeyOf(alert);
    if (this.#matches({ id: alert.id, sortKey, alert })) return this.#applyUpdate(alert, { ...at, sortKey });
    this.#store.keepUnloaded(alert, at);
    this.#pinned.update(alert, at.seq);
  }

  /** Begins again at the top, with what passes the filters as they are now. */
  #applyFilters() {
    const { filters } = this.#bar;
    const isFiltered = toQuery(filters).size > 0;
    this.#pending.clear();
    this.#foundByServer.clear();
    this.#selected = null;
    this.#forget(this.#store.retain(({ sortKey }) => sortKey >= this.#unfiltered.loadedDownTo));
    this.#filtered =
      isFiltered && (filters.text || !this.#unfiltered.complete) ? new AlertPages(toQuery(filters)) : null;
    this.#list.scrollToTop();
    this.#rebuildList();
    if (this.#filtered) this.#loadMore();
  }

  #clearFilters() {
    this.#bar.set(NO_FILTERS);
    this.#bar.focus(); // The button is gone, and what had the focus with it.
  }

  #retry() {
    this.#pages.problem = null;
    this.#loadMore();
  }

  #rebuildList() {
    this.#shown = this.#store.items.filter((item) => {
      if (!this.#pending.has(item)) item.shown = this.#matches(item);
      return item.shown;
    });
    this.#scheduleRender();
  }

  /** Lets join and leave what is due to. */
  #applyPending() {
    const joining = [];
    let isLeaving = false;
    for (const item of this.#pending) {
      item.shown = !item.shown;
      if (item.shown) joining.push(item);
      else isLeaving = true;
    }
    this.#pending.clear();
    if (isLeaving) this.#shown = this.#shown.filter(({ shown }) => shown);
    addInOrder(this.#shown, joining);
  }

  /** @param {AlertPage} page */
  #storePage({ alerts, head }) {
    for (const { topic } of alerts) this.#bar.suggest(topic);
    return this.#store.put(alerts.map(({ seq, ...alert }) => ({ alert, at: { position: head, seq, isEvent: false } })));
  }

  /** Loads the next older page. */
  async #loadMore() {
    const pages = this.#pages;
    const session = this.#session;
    if (!this.#unfiltered.answered || pages.loading || pages.problem || !pages.hasMore) return;
    const room = (pages === this.#unfiltered ? PAGED_MAX : LOADED_MAX) - this.#store.items.length;
    if (pages.answered && room <= 0) return pages.stop();
    const page = await pages.more(this.#fetchPage);
    if (session !== this.#session || pages !== this.#pages) return; // Nobody waits for it any more.
    if (page) {
      pages.take(page);
      for (const item of this.#storePage(page)) this.#pinned.update(item.alert, item.sortKey);
      if (this.#bar.filters.text) for (const { id } of page.alerts) this.#foundByServer.add(id);
      // What happened while the page was on its way may not be in it.
      for (const { alert, at } of this.#store.unloadedAfter(page.head)) this.#applyUnloaded(alert, at);
      this.#rebuildList();
    }
    this.#scheduleRender();
  }

  /** The critical ones that nobody has acknowledged may be far down. */
  async #loadPinned() {
    const pages = new AlertPages(CRITICAL);
    this.#critical = pages;
    const page = await pages.more(this.#fetchPage);
    if (pages !== this.#critical) return; // Nobody waits for it any more.
    if (page) pages.take(page);
    for (const { seq, ...alert } of page?.alerts ?? []) {
      const at = { position: page?.head ?? 0, seq, isEvent: false };
      const known = this.#store.get(alert.id);
      const latest = known && known.position > at.position ? known.alert : this.#store.latest({ alert, at }).alert;
      this.#pinned.update(latest, seq);
    }
    this.#pinned.setUnloaded(pages.problem ? "unknown" : pages.hasMore ? "some" : "none");
    this.#scheduleRender();
  }

  #clearPinned() {
    this.#critical = null;
    this.#pinned.clear();
  }

  #dropOldest() {
    const { items } = this.#store;
    const { sortKey: oldest } = items[items.length - LOADED_MAX + DROPPED_AT_ONCE];
    this.#forget(this.#store.retain(({ sortKey }) => sortKey >= oldest));
    for (const pages of [this.#unfiltered, this.#filtered]) pages?.cutAt(oldest);
    this.#shown = this.#shown.filter(({ sortKey }) => sortKey >= oldest);
  }

  /** @param {readonly Item[]} items */
  #forget(items) {
    for (const item of items) {
      this.#pending.delete(item);
      this.#foundByServer.delete(item.id);
    }
  }

  #scheduleRender() {
    this.#animationFrame ||= requestAnimationFrame(() => this.#render());
  }

  #render() {
    cancelAnimationFrame(this.#animationFrame);
    this.#animationFrame = 0;
    if (!this.#isHoldingBack) this.#applyPending();
    if (this.#pinned.needsMore && !this.#critical?.loading) this.#loadPinned();
    const lower = this.#pinned.render();
    if (lower && this.#isHoldingBack) this.#list.scrollBy(lower); // What is read stays where it is on the screen.
    this.#list.show(this.#shown, this.#pages.complete, this.#selected?.id ?? null);
    const waiting = [...this.#pending].filter(({ shown }) => !shown).length;
    this.#newButton.hidden = waiting === 0;
    this.#newButton.textContent = `${waiting.toLocaleString("en")} new`;
    this.#renderStatus();
    if (this.#list.end > this.#shown.length - NEAR_END) this.#loadMore();
  }

  #renderStatus() {
    const count = this.#shown.length;
    this.#scroller.hidden = count === 0;
    if (this.#unfiltered.answered) this.#status.show(count, this.#pages, toQuery(this.#bar.filters).size > 0);
    else this.#status.showNothing(count === 0);
  }

  /** @param {number} index  From the top. */
  #select(index) {
    const within = Math.max(0, Math.min(index, this.#shown.length - 1));
    const { id, sortKey } = this.#shown[this.#shown.length - 1 - within];
    this.#selected = { id, sortKey };
    this.#scroller.focus({ preventScroll: true });
    this.#list.reveal(within);
    this.#render();
  }

  /** Where an alert is from the top, or would be. @param {number} sortKey */
  #indexOf(sortKey) {
    let [low, high] = [0, this.#shown.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#shown[middle].sortKey < sortKey) low = middle + 1;
      else high = middle;
    }
    return this.#shown.length - 1 - low;
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const page = this.#list.page;
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowDown: () => this.move(1),
      ArrowUp: () => this.move(-1),
      PageDown: () => this.move(page),
      PageUp: () => this.move(-page),
      Home: () => this.#select(0),
      End: () => this.#select(this.#shown.length - 1),
    };
    if (!(event.key in keys) || event.ctrlKey || event.altKey || event.metaKey || !this.#shown.length) return;
    event.preventDefault();
    keys[event.key]();
  }

  /** @param {Element} target */
  #onClick(target) {
    const id = /** @type {HTMLElement | null} */ (target.closest("[data-id]"))?.dataset.id;
    const item = id && this.#store.get(id);
    if (!item) return;
    this.#select(this.#indexOf(item.sortKey));
    go({ name: "alert", id: item.id });
  }
}
