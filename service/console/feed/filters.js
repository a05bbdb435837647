/**
 * What a person wants to see of the feed, as it stands in the address: `?topic=payments.*&min_severity=error&q=…`.
 *
 * The names are those of `GET /v1/alerts`, so the address is also the question that finds what is not loaded.
 */

import { compareSeverity, SEVERITIES } from "../stream/severity.js";

/** @import { Alert, Severity } from "../stream/wire-types.js" */
/** @typedef {Alert["status"]} State */
/** @typedef {Pick<Alert, "title" | "topic" | "severity" | "status"> & {body?: string | null}} FilterableAlert */

/**
 * @typedef {object} Filters
 * @property {string[]} topics            Topics or patterns; none: any.
 * @property {Severity | null} severity   The least severe to show.
 * @property {State | null} status
 * @property {string} text                Words of title and body, as the server's `q`.
 */

/** @type {State[]} */
const STATUSES = ["open", "acknowledged", "resolved", "expired"];
const PART = "[a-z0-9_-]+";
const PATTERN = new RegExp(`^(\\*|${PART}(\\.${PART})*(\\.\\*)?)$`);
const OPERATORS = /[!&|()<]/g; // Of other syntaxes: in this one they end a word, and no more.
/** Dashes, and what they deny: a phrase, or what ends at a space, a quote or a colon. */
const TERM = /(-[-: \t\r\n\f\v]*)?(?:"([^"]*)"?|([^ \t\r\n\f\v":]+|:-*))/gu;
const OR = /^or(?![\p{L}\p{N}_-])/u;
const WORDS = /\p{N}+|\p{L}[\p{L}\p{N}]*/gu; // The server reads "1.5or" as two.
const ONE_WORD = /^[\p{L}\p{N}]+(?=[,;!?]*$)/u;
const TEXT_MAX = 200;
const TOPIC_MAX = 100;

/** @typedef {(said: string) => boolean} Term */
/** What was asked last: thousands of alerts in a row are held against the same. */
let asked = { text: "", alternatives: understand("") };

/** @type {Filters} */
export const NO_FILTERS = { topics: [], severity: null, status: null, text: "" };

/** What the service would refuse is left out: an address may come from anywhere. @param {string} search */
export function parse(search) {
  const query = new URLSearchParams(search);
  return {
    topics: query.getAll("topic").filter(isPattern),
    severity: SEVERITIES.find((name) => name === query.get("min_severity")) ?? null,
    status: STATUSES.find((name) => name === query.get("status")) ?? null,
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
 * Whether the words are there, in the syntax of PostgreSQL's `websearch_to_tsquery`: `a b`, `"a b"`, `a or b`, `-a`.
 *
 * The page cannot say exactly what the server would: it has no parser that knows hosts, paths and tags, and of what is
 * loaded no text. Where the two differ, this lets through rather than hides. It finds the beginnings and middles of words
 * too, so that what is loaded narrows down with each letter; of a phrase it wants the words in any order; and a `-` hides
 * only what surely has the very word.
 * @param {string} text
 * @param {FilterableAlert} alert
 */
export function containsText(text, { title, body }) {
  if (text !== asked.text) asked = { text, alternatives: understand(text.toLowerCase()) };
  const said = `${title}\n${body ?? ""}`.toLowerCase();
  return asked.alternatives.some((terms) => terms.every((term) => term(said)));
}

/** @param {string} text  In lower case. @returns {Term[][]} */
function understand(text) {
  /** @type {Term[][]} */ const alternatives = [[]];
  for (const [, dashes, quoted, bare = ""] of text.replace(OPERATORS, " ").matchAll(TERM)) {
    const isOr = !dashes && OR.test(bare) && alternatives[alternatives.length - 1].length > 0;
    if (isOr) alternatives.push([]);
    const wanted = quoted ?? (isOr ? bare.slice("or".length) : bare);
    if (wanted || !isOr) alternatives[alternatives.length - 1].push(dashes ? without(dashes, wanted) : having(wanted));
  }
  return alternatives.filter((terms, index) => index === 0 || terms.length > 0); // Somebody is still typing the last.
}

/** @param {string} wanted @returns {Term} */
function having(wanted) {
  const words = wanted.match(WORDS) ?? [];
  return (said) => words.every((word) => said.includes(word));
}

/** @param {string} dashes @param {string} unwanted @returns {Term} */
function without(dashes, unwanted) {
  const [word] = unwanted.match(ONE_WORD) ?? [];
  if (!word || dashes.trim() !== "-") return () => true;
  const alone = new RegExp(`(?:^|\\s)["'([]*${word}["')\\],.;:!?]*(?=\\s|$)`, "u");
  return (said) => said.includes("<") || !alone.test(said); // What may be a tag is not searched by the server.
}

/** @param {string} pattern @param {string} topic */
function covers(pattern, topic) {
  return pattern === "*" || pattern === topic || (pattern.endsWith(".*") && topic.startsWith(pattern.slice(0, -1)));
}
