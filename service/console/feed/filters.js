/**
 * The filters of the feed, as they stand in the address: `?topic=payments.*&min_severity=error&q=…`.
 *
 * The names are those of `GET /v1/alerts`, so the address is also the query that finds alerts that are not loaded.
 */

import { compareSeverity } from "../stream/severity.js";
import { covers, isTopicPattern } from "../stream/topics.js";
import { SEVERITIES, STATUSES } from "../stream/wire-constants.js";

/** @import { Alert, AlertStatus, Severity } from "../stream/wire-types.js" */
/** @typedef {Pick<Alert, "title" | "topic" | "severity" | "status"> & {body?: string | null}} FilterableAlert */

/**
 * @typedef {object} Filters
 * @property {string[]} topics            Topics or patterns; none: any.
 * @property {Severity | null} severity   The least severe to show.
 * @property {AlertStatus | null} status
 * @property {string} text                A search, in the syntax of the server's `q`.
 */

const TEXT_MAX_LENGTH = 200;

/** @type {Filters} */
export const NO_FILTERS = { topics: [], severity: null, status: null, text: "" };

/** Reads the filters from an address. What the service would refuse is left out. @param {string} search */
export function parse(search) {
  const query = new URLSearchParams(search);
  return {
    topics: query.getAll("topic").filter(isTopicPattern),
    severity: SEVERITIES.find((name) => name === query.get("min_severity")) ?? null,
    status: STATUSES.find((name) => name === query.get("status")) ?? null,
    text: (query.get("q") ?? "").trim().slice(0, TEXT_MAX_LENGTH),
  };
}

/** @param {Filters} filters */
export function toQuery({ topics, severity, status, text }) {
  const query = new URLSearchParams(topics.map((topic) => ["topic", topic]));
  if (severity) query.set("min_severity", severity);
  if (status) query.set("status", status);
  if (text) query.set("q", text);
  return query;
}

/**
 * Whether an alert passes all filters except the text.
 * @param {Filters} filters
 * @param {FilterableAlert} alert
 */
export function passes({ topics, severity, status }, alert) {
  return (
    (!status || alert.status === status) &&
    (!severity || compareSeverity(alert.severity, severity) >= 0) &&
    (topics.length === 0 || topics.some((pattern) => covers(pattern, alert.topic)))
  );
}

/**
 * A quick match for a search: whether title or body contain each of its words, or a part of a word. It narrows the list
 * with each letter, until the server answers; only the server knows phrases, `or` and `-`.
 * @param {string} text
 * @returns {(alert: FilterableAlert) => boolean}
 */
export function wordMatcher(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return ({ title, body }) => {
    const content = `${title}\n${body ?? ""}`.toLowerCase();
    return words.every((word) => content.includes(word));
  };
}
