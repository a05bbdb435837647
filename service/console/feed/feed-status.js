/**
 * The line below the feed that says how many alerts are loaded, and the text shown while the feed is empty.
 */

import { byId, write } from "../ui/dom.js";
import { explain } from "../ui/error-messages.js";

/** @import { AlertPages } from "./alert-pages.js" */

export class FeedStatus {
  #empty = byId("feed-empty");
  #text = byId("feed-empty-text");
  #reset = byId("feed-empty-reset");
  #count = byId("feed-count");
  #retry = byId("feed-retry");
  #explanation = "";

  /**
   * @param {() => void} onReset  "Clear filters" was pressed.
   * @param {() => void} onRetry  "Try again" was pressed.
   */
  constructor(onReset, onRetry) {
    this.#reset.addEventListener("click", onReset);
    this.#retry.addEventListener("click", onRetry);
  }

  /** Sets the text that is shown until the first page is there. @param {string} text */
  explain(text) {
    this.#explanation = text;
  }

  /** Before the first page. @param {boolean} isEmpty */
  showExplanation(isEmpty) {
    this.#empty.hidden = !isEmpty || !this.#explanation;
    this.#reset.hidden = this.#retry.hidden = true;
    write(this.#text, this.#explanation);
    write(this.#count, "");
  }

  /**
   * @param {number} count  How many alerts the list shows.
   * @param {AlertPages} pages
   * @param {boolean} isFiltered
   */
  show(count, pages, isFiltered) {
    this.#empty.hidden = count > 0;
    this.#reset.hidden = !isFiltered;
    this.#retry.hidden = !pages.problem;
    write(this.#text, isFiltered ? emptyText(pages) : "No alerts. A new one appears here the moment it is raised.");
    write(this.#count, countText(count, pages));
  }
}

/** @param {AlertPages} pages */
function emptyText(pages) {
  if (pages.problem) return "Nothing that is loaded matches.";
  return pages.answered ? "Nothing matches." : "Searching all alerts …";
}

/** @param {number} count @param {AlertPages} pages */
function countText(count, pages) {
  const alerts = `${count.toLocaleString("en")} ${count === 1 ? "alert" : "alerts"}`;
  if (pages.problem) return `${alerts}. Older ones could not be loaded. ${explain(pages.problem)}`;
  if (pages.loading) return `${alerts}, loading older ones …`;
  if (pages.cut) return `The newest ${alerts}. A filter finds older ones.`;
  if (!pages.complete) return `${alerts} loaded, older ones follow as you scroll`;
  return count ? alerts : "";
}
