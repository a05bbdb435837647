/**
 * The live list: which of the loaded alerts are shown, newest first, and when new ones may be inserted.
 *
 *     events, pages -> AlertStore -> FeedQuery -> pending -> shown -> VirtualList
 *                                                 held back while somebody reads further down or has a row selected
 *
 * After a gap or a reset of the stream the list is loaded again, as far as it is in view, and then replaces the old one:
 * what did not change stays where it is, with the selection.
 *
 * Everything that arrived since the last animation frame is shown in the next one. Memory is bounded: beyond LOADED_MAX
 * alerts, the oldest are dropped.
 */

import { isCritical } from "../stream/severity.js";
import { byId } from "../ui/dom.js";
import { AlertStore, addInOrder } from "./alert-store.js";
import { FeedQuery } from "./feed-query.js";
import { FeedStatus } from "./feed-status.js";
import { FilterBar } from "./filter-bar.js";
import { NO_FILTERS } from "./filters.js";
import { shouldNotify } from "./notify-rules.js";
import { PinnedAlerts } from "./pinned-alerts.js";
import { RowSelection } from "./row-selection.js";
import { VirtualList } from "./virtual-list.js";

/** @import { Prediction } from "../alert/actions.js" */
/** @import { Alert, AlertPage, EventFrame } from "../stream/wire-types.js" */
/** @import { SightingObserver } from "../ui/sighting-observer.js" */
/** @import { FetchPage } from "./alert-pages.js" */
/** @import { Item, UpdateInfo } from "./alert-store.js" */

const LOADED_MAX = 60_000;
const PAGED_MAX = 50_000; // By scrolling; the rest is for new alerts.
const DROPPED_AT_ONCE = 1_000;
const RELOADED_PAGES_MAX = 10; // Somebody who has scrolled further down is taken back up.
const NEAR_END_ROWS = 20;
const SEARCH_INTERVAL_MS = 2_000;
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
  #query = new FeedQuery();
  #list;
  #selection;
  #pinned;
  #bar = new FilterBar(() => this.#applyFilters());
  #status = new FeedStatus(
    () => this.#clearFilters(),
    () => this.#retry(),
  );
  /** Oldest first. @type {Item[]} */ #shown = [];
  /** Items that are to join the list, or to leave it. @type {Set<Item>} */ #pending = new Set();
  #session = 0; // Numbers the sessions: answers to requests of an earlier one are ignored.
  #animationFrame = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #searchTimer;
  #isSearchDue = false; // The last one failed.

  /** @param {FetchPage} fetchPage @param {SightingObserver} sightings */
  constructor(fetchPage, sightings) {
    this.#fetchPage = fetchPage;
    this.#list = new VirtualList(this.#scroller, sightings, () => this.#scheduleRender());
    this.#selection = new RowSelection(this.#scroller, this.#list, {
      shown: () => this.#shown,
      find: (id) => this.#store.get(id),
      onSelect: () => this.#render(),
    });
    this.#pinned = new PinnedAlerts({
      fetchPage,
      sightings,
      newest: (update) => this.#store.newest(update),
      onChange: () => this.#scheduleRender(),
      onShowAll: () => this.#bar.set(ALL_PINNED),
    });
    this.#scroller.addEventListener("blur", () => this.#scheduleRender());
    this.#newButton.addEventListener("click", () => this.showPending());
  }

  /** Begins with the first page. @param {AlertPage} page */
  show(page) {
    this.#session += 1;
    this.#query.restart(page);
    this.#storePage(page);
    const ids = new Set(page.alerts.map(({ id }) => id));
    this.#store.retain((item) => item.position > page.head || ids.has(item.id));
    this.#pinned.restart(this.#store.items, page);
    this.#applyFilters();
  }

  /** The history of the log changed: what happened after a seq is void; null: all may be. @param {number | null} after */
  invalidate(after) {
    this.#store.invalidate(after);
    this.#pinned.invalidate(after);
    this.#dropRemoved();
  }

  /** The list was loaded again: brings what is shown up to date. @param {AlertPage} page @returns {Promise<void>} */
  async reload(page) {
    this.#session += 1;
    const session = this.#session;
    const { filters } = this.#bar;
    const query = new FeedQuery();
    query.restart(page);
    query.setFilters(filters);
    const bottom = this.#shown[this.#shown.length - this.#list.end]?.sortKey ?? Infinity;
    /** @type {AlertPage[]} */ const older = [];
    while ((!query.pages.answered || query.loadedDownTo > bottom) && query.pages.hasMore) {
      const next = older.length < RELOADED_PAGES_MAX && (await query.pages.fetchNext(this.#fetchPage));
      if (session !== this.#session) return;
      if (!next) break;
      query.pages.add(next);
      older.push(next);
    }
    if (filters !== this.#bar.filters) return this.reload(page);
    this.#cancelSearch();
    this.#query = query;
    for (const one of [page, ...older]) this.#storePage(one);
    for (const one of older) query.noteFound(one);
    const ids = new Set([page, ...older].flatMap(({ alerts }) => alerts.map(({ id }) => id)));
    this.#store.retain((item) => item.position > page.head || ids.has(item.id));
    for (const item of this.#store.items) this.#updateMembership(item);
    for (const { alert, at } of this.#store.unloadedAfter(page.head)) this.#applyUnloaded(alert, at);
    this.#pinned.reload(this.#store.items, page);
    this.#dropRemoved();
  }

  /** Shows a text in the place of the alerts, until the first page is there. @param {string} text */
  explain(text) {
    this.#status.explain(text);
    this.#scheduleRender();
  }

  /** Applies an event. Returns whether it notifies: see notify-rules.js. @param {EventFrame} event */
  applyEvent(event) {
    const { alert, seq } = event;
    const isNew = shouldNotify(event, this.#store.known(alert.id), this.#pinned.has(alert.id));
    const at = { position: seq, seq, isEvent: true };
    this.#scheduleRender();
    if (isNew || this.#store.get(alert.id)) this.#applyUpdate(alert, at);
    else this.#applyUnloaded(alert, at);
    return isNew;
  }

  /** Whether an alert is relevant with the current filters: it passes them, or is critical. @param {Alert} alert */
  isRelevant(alert) {
    return isCritical(alert.severity) || this.#query.matches(alert);
  }

  /** The connection is back: repeats the requests that failed meanwhile. */
  onLive() {
    this.#query.clearProblems();
    this.#pinned.onLive();
    if (this.#isSearchDue) this.#searchAgainSoon();
    this.#scheduleRender();
  }

  clear() {
    this.#session += 1;
    this.#cancelSearch();
    this.#pending.clear();
    this.#store.clear();
    this.#query.restart(null);
    this.#selection.clear();
    this.#shown = [];
    this.#pinned.clear();
    this.#bar.clearSuggestions();
    this.#status.explain("");
    this.#list.scrollToTop(); // The browser would restore where the last admin was.
    this.#render();
  }

  /** Selects the row that is so many rows further down. @param {number} by  Negative: further up. */
  move(by) {
    this.#selection.move(by);
  }

  /** The id of the selected alert. */
  get selected() {
    return this.#selection.shownId;
  }

  /** A loaded alert. @param {string} id */
  find(id) {
    return this.#store.get(id)?.alert ?? null;
  }

  /** Selects an alert. Returns whether it is in the list. @param {string} id */
  reveal(id) {
    const item = this.#store.get(id);
    if (!item?.shown) return false;
    this.#selection.select(item);
    return true;
  }

  /** Shows what a running action will lead to; null: the action is over. @param {string} id @param {Prediction | null} prediction */
  predict(id, prediction) {
    this.#store.predict(id, prediction);
    this.#scheduleRender();
  }

  /** Shows an alert as a response has it. @param {Alert} alert */
  applyResponse(alert) {
    this.#store.applyResponse(alert);
    this.#scheduleRender();
  }

  /** Inserts the alerts that were held back, and scrolls to the top. */
  showPending() {
    this.#selection.clear();
    this.#list.scrollToTop();
    this.#applyPending();
    this.#scroller.focus({ preventScroll: true });
    this.#render();
  }

  /** Whether new alerts would move what somebody reads. */
  get #isHoldingBack() {
    return !this.#list.isAtTop || (this.#selection.id !== null && document.activeElement === this.#scroller);
  }

  /** Applies an event of an alert that is in the list or belongs there. @param {Alert} alert @param {UpdateInfo} at */
  #applyUpdate(alert, at) {
    const [item] = this.#store.put([{ alert, at }]);
    if (!item) return;
    this.#bar.suggest(alert.topic);
    this.#pinned.update(item.alert, item.sortKey);
    this.#query.noteWords(alert);
    if (item.version === 1 && this.#query.needsSearch(alert)) this.#searchAgainSoon();
    this.#updateMembership(item);
    if (this.#store.items.length > LOADED_MAX) this.#dropOldest();
  }

  /** Whether an item is to join the list, or to leave it. @param {Item} item */
  #updateMembership(item) {
    if (this.#query.includes(item) === item.shown) this.#pending.delete(item);
    else this.#pending.add(item);
  }

  /** Takes the rows of dropped items out of the list. What is being read stays where it is. */
  #dropRemoved() {
    const isKept = (/** @type {Item} */ item) => this.#store.get(item.id) === item;
    for (const item of this.#pending) if (!isKept(item)) this.#pending.delete(item);
    const above = this.#shown.slice(this.#shown.length - this.#list.top).filter((item) => !isKept(item));
    this.#shown = this.#shown.filter(isKept);
    this.#list.scrollByRows(-above.length);
    this.#scheduleRender();
  }

  /**
   * Applies an event of an alert that is not loaded. If it now passes the filters, it joins the list, provided that the
   * alerts around it are loaded.
   * @param {Alert} alert
   * @param {UpdateInfo} at
   */
  #applyUnloaded(alert, at) {
    const sortKey = this.#store.sortKeyOf(alert);
    this.#query.noteWords(alert);
    if (this.#query.includes({ id: alert.id, sortKey, alert })) return this.#applyUpdate(alert, { ...at, sortKey });
    this.#store.keepUnloaded(alert, at);
    this.#pinned.update(alert, at.seq);
  }

  /** Starts at the top again, with the alerts that pass the current filters. */
  #applyFilters() {
    this.#cancelSearch();
    this.#pending.clear();
    this.#selection.clear();
    this.#query.setFilters(this.#bar.filters);
    this.#store.retain(({ sortKey }) => sortKey >= this.#query.allLoadedDownTo);
    this.#list.scrollToTop();
    this.#rebuildList();
    if (!this.#query.isLoadingAll) this.#loadMore();
  }

  #clearFilters() {
    this.#bar.set(NO_FILTERS);
    this.#bar.focus(); // The button with the focus is gone.
  }

  #retry() {
    this.#query.pages.problem = null;
    this.#loadMore();
  }

  #rebuildList() {
    this.#shown = this.#store.items.filter((item) => {
      if (!this.#pending.has(item)) item.shown = this.#query.includes(item);
      return item.shown;
    });
    this.#scheduleRender();
  }

  /** Lets the pending items join and leave the list. */
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
    const { pages } = this.#query;
    const session = this.#session;
    if (!this.#query.hasStarted || pages.loading || pages.problem || !pages.hasMore) return;
    const room = (this.#query.isLoadingAll ? PAGED_MAX : LOADED_MAX) - this.#store.items.length;
    if (pages.answered && room <= 0) return pages.stop();
    const page = await pages.fetchNext(this.#fetchPage);
    if (session !== this.#session || pages !== this.#query.pages) return; // It is no longer wanted.
    if (page) {
      pages.add(page);
      this.#showPage(page);
    }
    this.#scheduleRender();
  }

  /** @param {AlertPage} page */
  #showPage(page) {
    for (const item of this.#storePage(page)) this.#pinned.update(item.alert, item.sortKey);
    this.#query.noteFound(page);
    // The page may lack what happened while it was on its way.
    for (const { alert, at } of this.#store.unloadedAfter(page.head)) this.#applyUnloaded(alert, at);
    this.#rebuildList();
  }

  /** A new alert may match the search in a way that only the server can tell. */
  #searchAgainSoon() {
    this.#searchTimer ??= setTimeout(() => this.#searchAgain(), SEARCH_INTERVAL_MS);
  }

  async #searchAgain() {
    this.#searchTimer = undefined;
    const { pages } = this.#query;
    const page = await this.#query.newSearch().fetchNext(this.#fetchPage);
    if (pages !== this.#query.pages) return; // There are other filters by now.
    this.#isSearchDue = page === null;
    if (page) this.#showPage(page);
  }

  #cancelSearch() {
    clearTimeout(this.#searchTimer);
    this.#searchTimer = undefined;
    this.#isSearchDue = false;
  }

  #dropOldest() {
    const { items } = this.#store;
    const { sortKey: oldest } = items[items.length - LOADED_MAX + DROPPED_AT_ONCE];
    const dropped = this.#store.retain(({ sortKey }) => sortKey >= oldest);
    for (const item of dropped) this.#pending.delete(item);
    this.#query.drop(oldest, dropped);
    this.#shown = this.#shown.filter(({ sortKey }) => sortKey >= oldest);
  }

  #scheduleRender() {
    this.#animationFrame ||= requestAnimationFrame(() => this.#render());
  }

  #render() {
    cancelAnimationFrame(this.#animationFrame);
    this.#animationFrame = 0;
    if (!this.#isHoldingBack) this.#applyPending();
    const movedBy = this.#pinned.render();
    if (movedBy && this.#isHoldingBack) this.#list.scrollBy(movedBy); // What is being read stays where it is.
    this.#list.show(this.#shown, this.#query.pages.complete, this.#selection.id);
    const waiting = [...this.#pending].filter(({ shown }) => !shown).length;
    this.#newButton.hidden = waiting === 0;
    this.#newButton.textContent = `${waiting.toLocaleString("en")} new`;
    this.#renderStatus();
    if (this.#list.end > this.#shown.length - NEAR_END_ROWS) this.#loadMore();
  }

  #renderStatus() {
    const count = this.#shown.length;
    this.#scroller.hidden = count === 0;
    if (this.#query.hasStarted) this.#status.show(count, this.#query.pages, this.#query.isFiltered);
    else this.#status.showExplanation(count === 0);
  }
}
