/**
 * The pages of one query for alerts, loaded from the newest back.
 */

import { ApiError } from "../auth/rest-api.js";

/** @import { AlertPage } from "../stream/wire-types.js" */
/** @typedef {(query: URLSearchParams) => Promise<AlertPage>} FetchPage */

const PAGE_SIZE = 200;

export class AlertPages {
  #query;
  /** @type {string | null} */ #next = null;
  /** Whether a page has been loaded. */ answered = false;
  /** Every alert of the query from this sort key on is loaded; Infinity: none is. */ loadedDownTo = Infinity;
  /** Whether a page is being loaded. */ loading = false;
  /** @type {string | null} Why the last page could not be loaded. */ problem = null;
  /** Whether older alerts were dropped or are not wanted, so that this ends before all are loaded. */ cut = false;

  /** @param {URLSearchParams} query */
  constructor(query) {
    this.#query = query;
  }

  get complete() {
    return this.answered && this.#next === null && !this.cut;
  }

  /** Whether there is another page to load. */
  get hasMore() {
    return !this.cut && (!this.answered || this.#next !== null);
  }

  /** Adds the next page. @param {AlertPage} page */
  add({ alerts, next }) {
    this.answered = true;
    this.#next = next;
    this.problem = null;
    this.loadedDownTo = next === null ? 0 : (alerts.at(-1)?.seq ?? 0);
  }

  /** Alerts older than this were dropped to bound memory. @param {number} sortKey */
  cutAt(sortKey) {
    if (sortKey <= this.loadedDownTo) return;
    this.loadedDownTo = sortKey;
    this.cut = true;
  }

  /** Loads no further pages. */
  stop() {
    this.cut = true;
  }

  /** Fetches the next page; null if that failed. @param {FetchPage} fetchPage */
  async fetchNext(fetchPage) {
    const query = new URLSearchParams(this.#query);
    query.set("limit", String(PAGE_SIZE));
    if (this.#next) query.set("cursor", this.#next);
    this.loading = true;
    try {
      return await fetchPage(query);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.problem = error.reason;
      return null;
    } finally {
      this.loading = false;
    }
  }
}
