/**
 * How far back into the past the alerts of one question are loaded: page by page, as somebody scrolls there.
 */

import { ApiError } from "../auth/rest-api.js";

/** @import { AlertPage } from "../stream/wire-types.js" */
/** @typedef {(query: URLSearchParams) => Promise<AlertPage>} FetchPage */

const PAGE_SIZE = 200;

export class AlertPages {
  #query;
  /** @type {string | null} */ #next = null;
  #isAnswered = false;
  /** Every alert from here on that answers the question is loaded; Infinity: none has come. */ loadedDownTo = Infinity;
  /** Whether a page is on its way. */ loading = false;
  /** @type {string | null} Why the last page did not come. */ problem = null;
  /** Whether older ones were dropped, so that this ends before all are loaded. */ cut = false;

  /** @param {URLSearchParams} query */
  constructor(query) {
    this.#query = query;
  }

  get answered() {
    return this.#isAnswered;
  }

  get complete() {
    return this.#isAnswered && this.#next === null && !this.cut;
  }

  /** Whether there is another page to ask for. */
  get hasMore() {
    return !this.cut && (!this.#isAnswered || this.#next !== null);
  }

  /** Takes in a page that came. @param {AlertPage} page */
  take({ alerts, next }) {
    this.#isAnswered = true;
    this.#next = next;
    this.problem = null;
    this.loadedDownTo = next === null ? 0 : (alerts.at(-1)?.seq ?? 0);
  }

  /** What is older than this was dropped to keep memory bounded. @param {number} sortKey */
  cutAt(sortKey) {
    if (sortKey <= this.loadedDownTo) return;
    this.loadedDownTo = sortKey;
    this.cut = true;
  }

  /** Enough is loaded. */
  stop() {
    this.cut = true;
  }

  /** Asks for the next page; null where it did not come. @param {FetchPage} fetchPage */
  async more(fetchPage) {
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
