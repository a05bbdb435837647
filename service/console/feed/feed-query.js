/**
 * Which alerts belong in the feed, and how far back they are loaded.
 *
 * All alerts are loaded page by page. While filters are set that the loaded alerts may not satisfy in full, the server is
 * asked for the filtered ones as well. In a search (`text`), an alert belongs in the list if the server found it. Until the
 * server answers, an alert whose title contains the words does; and so does one that arrives, by its title and its body.
 */

import { AlertPages } from "./alert-pages.js";
import { NO_FILTERS, passes, toQuery, wordMatcher } from "./filters.js";

/** @import { AlertPage } from "../stream/wire-types.js" */
/** @import { Item } from "./alert-store.js" */
/** @import { FilterableAlert, Filters } from "./filters.js" */

export class FeedQuery {
  #filters = NO_FILTERS;
  #hasWords = wordMatcher("");
  #all = new AlertPages(new URLSearchParams());
  /** The pages of the filtered alerts; null: those of all alerts are enough. @type {AlertPages | null} */ #filtered =
    null;
  /** The alerts that match the text by what the server, or a whole event, says. @type {Set<string>} */ #found =
    new Set();

  /** Begins with the first page of all alerts; null: none has been loaded yet. @param {AlertPage | null} page */
  restart(page) {
    this.#all = new AlertPages(new URLSearchParams());
    this.#filtered = null;
    this.#found.clear();
    if (page) this.#all.add(page);
  }

  /** @param {Filters} filters */
  setFilters(filters) {
    this.#filters = filters;
    this.#hasWords = wordMatcher(filters.text);
    this.#found.clear();
    const needsServer = this.isFiltered && (filters.text || !this.#all.complete);
    this.#filtered = needsServer ? new AlertPages(toQuery(filters)) : null;
  }

  /** Whether the first page of all alerts is there. */
  get hasStarted() {
    return this.#all.answered;
  }

  get isFiltered() {
    return toQuery(this.#filters).size > 0;
  }

  /** The pages that the list shows. */
  get pages() {
    return this.#filtered ?? this.#all;
  }

  get isLoadingAll() {
    return this.#filtered === null;
  }

  /** All alerts from here on are loaded, whatever the filters. */
  get allLoadedDownTo() {
    return this.#all.loadedDownTo;
  }

  /** All alerts that belong in the list, from here on, are loaded. */
  get loadedDownTo() {
    if (!this.#filtered) return this.#all.loadedDownTo;
    // Loaded alerts lack their body, so in a search only the server's answer is complete.
    if (this.#filters.text && this.#filtered.answered) return this.#filtered.loadedDownTo;
    return Math.min(this.#all.loadedDownTo, this.#filtered.loadedDownTo);
  }

  /** Whether an alert belongs in the list. @param {Pick<Item, "id" | "sortKey"> & {alert: FilterableAlert}} item */
  includes({ id, sortKey, alert }) {
    if (sortKey < this.loadedDownTo || !passes(this.#filters, alert)) return false;
    if (this.#found.has(id)) return true;
    return !(this.#filters.text && this.#filtered?.answered) && this.#hasWords(alert);
  }

  /** Whether an alert passes the filters, wherever it stands. @param {FilterableAlert} alert */
  matches(alert) {
    return passes(this.#filters, alert) && this.#hasWords(alert);
  }

  /** Whether only the server can tell if an alert belongs in the list. @param {FilterableAlert & {id: string}} alert */
  needsSearch(alert) {
    return passes(this.#filters, alert) && !this.#found.has(alert.id) && !this.#hasWords(alert);
  }

  /** Remembers that a whole alert has the words. @param {FilterableAlert & {id: string}} alert */
  noteWords(alert) {
    if (this.#filters.text && this.#hasWords(alert)) this.#found.add(alert.id);
  }

  /** Remembers that the server found these alerts. @param {AlertPage} page */
  noteFound({ alerts }) {
    if (this.#filters.text) for (const { id } of alerts) this.#found.add(id);
  }

  /** A new first page of the search, for alerts that arrived since. */
  newSearch() {
    return new AlertPages(toQuery(this.#filters));
  }

  /** Alerts older than this were dropped to bound memory. @param {number} sortKey @param {readonly Item[]} dropped */
  drop(sortKey, dropped) {
    for (const pages of [this.#all, this.#filtered]) pages?.cutAt(sortKey);
    for (const { id } of dropped) this.#found.delete(id);
  }

  /** The connection is back: pages that could not be loaded may be asked for again. */
  clearProblems() {
    for (const pages of [this.#all, this.#filtered]) if (pages) pages.problem = null;
  }
}
