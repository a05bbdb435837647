/**
 * What a person wants to see of the feed, as it stands in the address: `?topic=payments.*&min_severity=error&q=…`.
 *
 * The names are those of `GET /v1/alerts`, so the address is also the question that finds what is not loaded.
 */

import { SEVERITIES, compare } from "./severity.js";

/** @import { Alert, Severity } from "./wire.js" */
/** @typedef {Alert["status"]} State */
/** @typedef {Pick<Alert, "title" | "topic" | "severity" | "status"> & {body?: string | null}} Candidate */

/**
 * @typedef {object} Filters
 * @property {string[]} topics            Topics or patterns; none: any.
 * @property {Severity | null} severity   This one or a graver one.
 * @property {State | null} status
 * @property {string} text                Words of title and body, as the server's `q`.
 */

/** @type {State[]} */
const STATES = ["open", "acknowledged", "resolved", "expired"];
const PART = "[a-z0-9_-]+";
const PATTERN = new RegExp(`^(\\*|${PART}(\\.${PART})*(\\.\\*)?)$`);
const TEXT_MAX = 200;
const TOPIC_MAX = 100;

/** @type {Filters} */
export const NO_FILTERS = { topics: [], severity: null, status: null, text: "" };

/** What the service would refuse is left out: an address may come from anywhere. @param {string} search */
export function parse(search) {
  const query = new URLSearchParams(search);
  return {
    topics: query.getAll("topic").filter(isPattern),
    severity: SEVERITIES.find((name) => name === query.get("min_severity")) ?? null,
    status: STATES.find((name) => name === query.get("status")) ?? null,
    text: (query.get("q") ?? "").trim().slice(0, TEXT_MAX),
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

/** @param {string} text */
export function isPattern(text) {
  return text.length <= TOPIC_MAX && PATTERN.test(text);
}

/**
 * Whether an alert passes all but the text, of which the page does not keep all that it would take to tell.
 * @param {Filters} filters
 * @param {Candidate} alert
 */
export function passes({ topics, severity, status }, alert) {
  return (
    (!status || alert.status === status) &&
    (!severity || compare(alert.severity, severity) >= 0) &&
    (topics.length === 0 || topics.some((pattern) => covers(pattern, alert.topic)))
  );
}

/**
 * Whether the words are there: `a b`, `"a b"`, `a or b`, `-a`. Unlike the server, which knows whole words, this finds the
 * beginnings and middles of them too, so that what is loaded narrows down with each letter.
 * @param {string} text
 * @param {Candidate} alert
 */
export function saysAll(text, { title, body }) {
  const said = `${title}\n${body ?? ""}`.toLowerCase();
  return text
    .toLowerCase()
    .split(/\s+or\s+/)
    .some((words) => (words.match(/-?"[^"]+"|\S+/g) ?? []).every((word) => says(said, word)));
}

/** @param {string} said @param {string} word */
function says(said, word) {
  const wanted = word.replaceAll('"', "");
  return wanted.length > 1 && wanted.startsWith("-") ? !said.includes(wanted.slice(1)) : said.includes(wanted);
}

/** @param {string} pattern @param {string} topic */
function covers(pattern, topic) {
  return pattern === "*" || pattern === topic || (pattern.endsWith(".*") && topic.startsWith(pattern.slice(0, -1)));
}
