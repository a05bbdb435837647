/**
 * The filter form. Its state is part of the address, so the browser's back and forward go through earlier filters.
 */

import { isTopicPattern } from "../stream/topics.js";
import { byId, element } from "../ui/dom.js";
import { NO_FILTERS, parse, toQuery } from "./filters.js";

/** @import { Filters } from "./filters.js" */

const TYPING_MS = 250;
const SUGGESTED = 50;

export class FilterBar {
  /** @type {HTMLFormElement} */ #form = byId("filters");
  /** @type {HTMLInputElement} */ #text = byId("filter-text");
  /** @type {HTMLInputElement} */ #topics = byId("filter-topics");
  /** @type {HTMLSelectElement} */ #severity = byId("filter-severity");
  /** @type {HTMLSelectElement} */ #status = byId("filter-status");
  #reset = byId("filter-reset");
  #problem = byId("filter-problem");
  #suggestions = byId("filter-suggestions");
  /** @type {Set<string>} */ #known = new Set();
  #onChange;
  /** @type {number | undefined} */ #timer;
  #typing = false; // The letters of a word are one entry of the history.

  /** @param {(filters: Filters) => void} onChange */
  constructor(onChange) {
    this.#onChange = onChange;
    this.filters = parse(location.search);
    this.#write();
    this.#text.addEventListener("input", () => this.#later(TYPING_MS));
    this.#topics.addEventListener("input", () => this.#later(2 * TYPING_MS));
    for (const choice of [this.#severity, this.#status]) choice.addEventListener("change", () => this.#choose());
    this.#form.addEventListener("focusout", () => {
      this.#read();
      this.#typing = false;
    });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#read();
    });
    this.#reset.addEventListener("click", () => this.set(NO_FILTERS));
    addEventListener("popstate", () => this.#fromAddress());
  }

  focus() {
    this.#text.focus();
    this.#text.select();
  }

  /** @param {Filters} filters */
  set(filters) {
    clearTimeout(this.#timer);
    this.#typing = false;
    this.#apply(filters);
    this.#write();
  }

  /** Offers a topic as a suggestion. @param {string} topic */
  suggest(topic) {
    if (this.#known.size >= SUGGESTED || this.#known.has(topic)) return;
    this.#known.add(topic);
    this.#suggestions.append(element("option", { value: topic }));
  }

  clearSuggestions() {
    this.#known.clear();
    this.#suggestions.replaceChildren();
  }

  /** @param {number} ms */
  #later(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#read();
      this.#typing = true;
    }, ms);
  }

  #choose() {
    this.#typing = false;
    this.#read();
  }

  #read() {
    clearTimeout(this.#timer);
    const topics = this.#topics.value
      .toLowerCase()
      .split(/[\s,]+/)
      .filter(Boolean);
    const wrong = topics.find((topic) => !isTopicPattern(topic));
    this.#problem.hidden = !wrong;
    this.#problem.textContent = wrong ? `“${wrong}” is no topic, and no pattern such as payments.* either.` : "";
    this.#topics.ariaInvalid = String(Boolean(wrong));
    if (wrong) return;
    const query = toQuery({ ...NO_FILTERS, topics, text: this.#text.value.trim() });
    query.set("min_severity", this.#severity.value);
    query.set("status", this.#status.value);
    this.#apply(parse(query.toString()));
  }

  /** @param {Filters} filters */
  #apply(filters) {
    const before = toQuery(this.filters).toString();
    const search = toQuery(filters).toString();
    if (before === search) return;
    const address = `${location.pathname}${search && `?${search}`}${location.hash}`;
    if (this.#typing) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
    this.#changed(filters);
  }

  #fromAddress() {
    const filters = parse(location.search);
    if (toQuery(filters).toString() === toQuery(this.filters).toString()) return;
    clearTimeout(this.#timer);
    this.#changed(filters);
    this.#write();
  }

  /** @param {Filters} filters */
  #changed(filters) {
    this.filters = filters;
    this.#reset.hidden = toQuery(filters).size === 0;
    this.#onChange(filters);
  }

  /** Shows the filters in the form. */
  #write() {
    const { text, topics, severity, status } = this.filters;
    this.#text.value = text;
    this.#topics.value = topics.join(" ");
    this.#severity.value = severity ?? "";
    this.#status.value = status ?? "";
    this.#problem.hidden = true;
    this.#topics.ariaInvalid = "false";
    this.#reset.hidden = toQuery(this.filters).size === 0;
  }
}
