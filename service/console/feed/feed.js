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
import { Pages } from "./alert-pages.js";
import { addInOrder, Store } from "./alert-store.js";
import { Extent } from "./feed-status.js";
import { FilterBar } from "./filter-bar.js";
import { NO_FILTERS, passes, saysAll, toQuery } from "./filters.js";
import { raises } from "./notify-rules.js";
import { Pinned } from "./pinned-alerts.js";
import { VirtualList } from "./virtual-list.js";

/** @import { Prediction } from "../alert/actions.js" */
/** @import { Candidate } from "./filters.js" */
/** @import { Find } from "./alert-pages.js" */
/** @import { At, Item } from "./alert-store.js" */
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
  #ask;
  #scroller = byId("feed");
  #arrivals = byId("arrivals");
  #store = new Store();
  #list = new VirtualList(this.#scroller, () => this.#renderSoon());
  #pinned = new Pinned(() => this.#bar.set(ALL_PINNED));
  #bar = new FilterBar(() => this.#filter());
  #base = new Pages(new URLSearchParams());
  /** Those to be pinned, as they were asked for last. @type {Pages | null} */ #critical = null;
  /** The filtered alerts, as the server finds them. @type {Pages | null} */ #query = null;
  /** What the server, or a whole event, showed to have the words. @type {Set<string>} */ #found = new Set();
  /** Oldest first. @type {Item[]} */ #shown = [];
  /** Those that are to join the list, or to leave it. @type {Set<Item>} */ #pending = new Set();
  /** @type {{id: string, place: number} | null} */ #selected = null;
  #extent = new Extent(
    () => this.#unfilter(),
    () => this.#retry(),
  );
  #session = 0; // What was asked for in an earlier one is not shown in this.
  #frame = 0;

  /** @param {Find} ask  Asks the server for a page of alerts. */
  constructor(ask) {
    this.#ask = ask;
    keepAgesCurrent(/** @type {HTMLElement} */ (this.#scroller.closest("section")));
    this.#scroller.addEventListener("keydown", (event) => this.#onKey(event));
    this.#scroller.addEventListener("blur", () => this.#renderSoon());
    this.#scroller.addEventListener("click", ({ target }) => this.#onClick(/** @type {Element} */ (target)));
    this.#arrivals.addEventListener("click", () => this.bringIn());
  }

  /** Begins with the newest alerts, as a page shows them. @param {AlertPage} page */
  show(page) {
    this.#session += 1;
    this.#base = new Pages(new URLSearchParams());
    this.#base.take(page);
    this.#put(page);
    const ids = new Set(page.alerts.map(({ id }) => id));
    this.#forget(this.#store.retain((item) => item.position > page.head || ids.has(item.id)));
    this.#forgetPinned();
    for (const { alert, place } of this.#store.items) this.#pinned.learn(alert, place);
    if (page.next !== null) this.#findPinned();
    this.#filter();
  }

  /** Says what stands in the place of alerts, before the first page came. @param {string} text */
  explain(text) {
    this.#extent.explain(text);
    this.#renderSoon();
  }

  /** Shows what an event did: a new row, or a change of one. Returns whether it calls somebody. @param {EventFrame} event */
  apply(event) {
    const { alert, seq } = event;
    const isNews = raises(event, this.#store.known(alert.id), this.#pinned.has(alert.id));
    const at = { position: seq, seq, isEvent: true };
    this.#renderSoon();
    if (isNews || this.#store.get(alert.id)) this.#take(alert, at);
    else this.#takeStray(alert, at);
    return isNews;
  }

  /** Whether an alert is news to somebody with these filters: if it passes them, or is critical. @param {Alert} alert */
  concerns(alert) {
    const { filters } = this.#bar;
    return alert.severity === "critical" || (passes(filters, alert) && saysAll(filters.text, alert));
  }

  /** The connection is back: asks again for what did not come meanwhile. */
  onLive() {
    for (const pages of [this.#base, this.#query]) if (pages) pages.problem = null;
    if (this.#critical?.problem) this.#findPinned();
    this.#renderSoon();
  }

  clear() {
    this.#session += 1;
    this.#forget(this.#store.items);
    this.#store.clear();
    this.#found.clear();
    this.#base = new Pages(new URLSearchParams());
    this.#query = this.#selected = null;
    this.#shown = [];
    this.#forgetPinned();
    this.#bar.forgetSuggestions();
    this.#extent.explain("");
    this.#render();
  }

  /** Selects the row that is so many rows further down, and scrolls to it. @param {number} by  Negative: further up. */
  move(by) {
    if (!this.#shown.length) return;
    this.#select(this.#current(by) + by);
  }

  /** Where one is in the list who goes on from here. @param {number} by */
  #current(by) {
    if (!this.#selected) return this.#list.top - Math.sign(by);
    // One that has left the list stood between two rows: the next one up is where it would be, not one further.
    const hasLeft = this.selected === null;
    return this.#indexOf(this.#selected.place) + (hasLeft && by < 0 ? 1 : 0);
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
    this.#select(this.#indexOf(item.place));
    return true;
  }

  /** Where an action leads that is under way; null: it is over. @param {string} id @param {Prediction | null} prediction */
  predict(id, prediction) {
    this.#store.predict(id, prediction);
    this.#renderSoon();
  }

  /** What a request says that an alert is now. @param {Alert} alert */
  take(alert) {
    this.#store.take(alert);
    this.#renderSoon();
  }

  /** Shows what was held back, from the top. */
  bringIn() {
    this.#selected = null;
    this.#list.scrollToTop();
    this.#settle();
    this.#scroller.focus({ preventScroll: true });
    this.#render();
  }

  get #pages() {
    return this.#query ?? this.#base;
  }

  /** From here on, every alert that passes the filters is loaded. */
  get #floor() {
    if (!this.#query) return this.#base.reach;
    // Of loaded alerts we do not have every word, so once the server has answered, it is its answer that counts.
    if (this.#bar.filters.text && this.#query.answered) return this.#query.reach;
    return Math.min(this.#base.reach, this.#query.reach);
  }

  /** Whether what is new would move what somebody reads. */
  get #holds() {
    return !this.#list.isAtTop || (this.#selected !== null && document.activeElement === this.#scroller);
  }

  /** @param {Pick<Item, "id" | "place"> & {alert: Candidate}} item */
  #belongs({ id, place, alert }) {
    const { filters } = this.#bar;
    if (place < this.#floor || !passes(filters, alert)) return false;
    return !filters.text || this.#found.has(id) || saysAll(filters.text, alert);
  }

  /** Takes in what an event says of an alert that is in the list, or belongs there. @param {Alert} alert @param {At} at */
  #take(alert, at) {
    const [item] = this.#store.put([{ alert, at }]);
    if (!item) return;
    this.#bar.suggest(alert.topic);
    this.#pinned.learn(item.alert, item.place);
    const { text } = this.#bar.filters;
    if (text && saysAll(text, alert)) this.#found.add(item.id);
    if (this.#belongs(item) === item.shown) this.#pending.delete(item);
    else this.#pending.add(item);
    if (this.#store.items.length > LOADED_MAX) this.#dropOldest();
  }

  /**
   * Takes in news of an alert that is not loaded. By them it may have come to pass the filters: then it joins the list at
   * its place, if all that is about there is loaded.
   * @param {Alert} alert
   * @param {At} at
   */
  #takeStray(alert, at) {
    const place = this.#store.placeOf(alert);
    if (this.#belongs({ id: alert.id, place, alert })) return this.#take(alert, { ...at, place });
    this.#store.stray(alert, at);
    this.#pinned.learn(alert, at.seq);
  }

  /** Begins again at the top, with what passes the filters as they are now. */
  #filter() {
    const { filters } = this.#bar;
    const isFiltered = toQuery(filters).size > 0;
    this.#pending.clear();
    this.#found.clear();
    this.#selected = null;
    this.#forget(this.#store.retain(({ place }) => place >= this.#base.reach));
    this.#query = isFiltered && (filters.text || !this.#base.complete) ? new Pages(toQuery(filters)) : null;
    this.#list.scrollToTop();
    this.#rebuild();
    if (this.#query) this.#more();
  }

  #unfilter() {
    this.#bar.set(NO_FILTERS);
    this.#bar.focus(); // The button is gone, and what had the focus with it.
  }

  #retry() {
    this.#pages.problem = null;
    this.#more();
  }

  #rebuild() {
    this.#shown = this.#store.items.filter((item) => {
      if (!this.#pending.has(item)) item.shown = this.#belongs(item);
      return item.shown;
    });
    this.#renderSoon();
  }

  /** Lets join and leave what is due to. */
  #settle() {
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
  #put({ alerts, head }) {
    for (const { topic } of alerts) this.#bar.suggest(topic);
    return this.#store.put(alerts.map(({ seq, ...alert }) => ({ alert, at: { position: head, seq, isEvent: false } })));
  }

  /** Loads the next older page. */
  async #more() {
    const pages = this.#pages;
    const session = this.#session;
    if (!this.#base.answered || pages.loading || pages.problem || !pages.hasMore) return;
    const room = (pages === this.#base ? PAGED_MAX : LOADED_MAX) - this.#store.items.length;
    if (pages.answered && room <= 0) return pages.stop();
    const page = await pages.more(this.#ask);
    if (session !== this.#session || pages !== this.#pages) return; // Nobody waits for it any more.
    if (page) {
      pages.take(page);
      for (const item of this.#put(page)) this.#pinned.learn(item.alert, item.place);
      if (this.#bar.filters.text) for (const { id } of page.alerts) this.#found.add(id);
      // What happened while the page was on its way may not be in it.
      for (const { alert, at } of this.#store.straysAfter(page.head)) this.#takeStray(alert, at);
      this.#rebuild();
    }
    this.#renderSoon();
  }

  /** The critical ones that nobody has acknowledged may be far down. */
  async #findPinned() {
    const pages = new Pages(CRITICAL);
    this.#critical = pages;
    const page = await pages.more(this.#ask);
    if (pages !== this.#critical) return; // Nobody waits for it any more.
    if (page) pages.take(page);
    for (const { seq, ...alert } of page?.alerts ?? []) {
      const at = { position: page?.head ?? 0, seq, isEvent: false };
      const known = this.#store.get(alert.id);
      const latest = known && known.position > at.position ? known.alert : this.#store.latest({ alert, at }).alert;
      this.#pinned.learn(latest, seq);
    }
    this.#pinned.setOthers(pages.problem ? "unknown" : pages.hasMore ? "some" : "none");
    this.#renderSoon();
  }

  #forgetPinned() {
    this.#critical = null;
    this.#pinned.clear();
  }

  #dropOldest() {
    const { items } = this.#store;
    const { place: oldest } = items[items.length - LOADED_MAX + DROPPED_AT_ONCE];
    this.#forget(this.#store.retain(({ place }) => place >= oldest));
    for (const pages of [this.#base, this.#query]) pages?.cutAt(oldest);
    this.#shown = this.#shown.filter(({ place }) => place >= oldest);
  }

  /** @param {readonly Item[]} items */
  #forget(items) {
    for (const item of items) {
      this.#pending.delete(item);
      this.#found.delete(item.id);
    }
  }

  #renderSoon() {
    this.#frame ||= requestAnimationFrame(() => this.#render());
  }

  #render() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (!this.#holds) this.#settle();
    if (this.#pinned.runsOut && !this.#critical?.loading) this.#findPinned();
    const lower = this.#pinned.render();
    if (lower && this.#holds) this.#list.scrollBy(lower); // What is read stays where it is on the screen.
    this.#list.show(this.#shown, this.#pages.complete, this.#selected?.id ?? null);
    const waiting = [...this.#pending].filter(({ shown }) => !shown).length;
    this.#arrivals.hidden = waiting === 0;
    this.#arrivals.textContent = `${waiting.toLocaleString("en")} new`;
    this.#tellWhatIsHere();
    if (this.#list.end > this.#shown.length - NEAR_END) this.#more();
  }

  #tellWhatIsHere() {
    const count = this.#shown.length;
    this.#scroller.hidden = count === 0;
    if (this.#base.answered) this.#extent.show(count, this.#pages, toQuery(this.#bar.filters).size > 0);
    else this.#extent.showNothing(count === 0);
  }

  /** @param {number} index  From the top. */
  #select(index) {
    const within = Math.max(0, Math.min(index, this.#shown.length - 1));
    const { id, place } = this.#shown[this.#shown.length - 1 - within];
    this.#selected = { id, place };
    this.#scroller.focus({ preventScroll: true });
    this.#list.reveal(within);
    this.#render();
  }

  /** Where an alert is from the top, or would be. @param {number} place */
  #indexOf(place) {
    let [low, high] = [0, this.#shown.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#shown[middle].place < place) low = middle + 1;
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
    this.#select(this.#indexOf(item.place));
    go({ name: "alert", id: item.id });
  }
}
