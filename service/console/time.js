/**
 * Points in time, as people read them: the age in the text, the exact time behind it.
 */

import { element, write } from "./dom.js";

const REFRESH_MS = 5_000;
const minutes = { day: style({ timeStyle: "short" }), other: style({ dateStyle: "medium", timeStyle: "short" }) };
const seconds = { day: style({ timeStyle: "medium" }), other: style({ dateStyle: "medium", timeStyle: "medium" }) };
const exact = style({ dateStyle: "medium", timeStyle: "long" });

/**
 * The time of day to the minute, and the day where it is not today.
 * @param {number} ms
 */
export function timeOfDay(ms) {
  return (isToday(ms) ? minutes.day : minutes.other).format(ms);
}

/**
 * The same to the second.
 * @param {number} ms
 */
export function secondOfDay(ms) {
  return (isToday(ms) ? seconds.day : seconds.other).format(ms);
}

/**
 * The exact time, in the reader's zone and as the server wrote it, to be found again in logs and SQL.
 * @param {string} timestamp  RFC 3339.
 */
export function exactTime(timestamp) {
  return `${exact.format(new Date(timestamp))} (${timestamp})`;
}

/**
 * A `<time>` that shows an age. `keepAgesCurrent` updates it for as long as it is in the document.
 * @param {string} timestamp  RFC 3339.
 */
export function age(timestamp) {
  const attributes = { class: "age", datetime: timestamp, title: exactTime(timestamp) };
  return element("time", attributes, inWords(timestamp));
}

/** @param {ParentNode} root */
export function keepAgesCurrent(root) {
  setInterval(() => {
    for (const time of /** @type {NodeListOf<HTMLTimeElement>} */ (root.querySelectorAll("time.age"))) {
      write(time, inWords(time.dateTime));
    }
  }, REFRESH_MS);
}

/** @param {string} timestamp */
function inWords(timestamp) {
  const seconds = (Date.now() - Date.parse(timestamp)) / 1000;
  if (seconds < 10) return "just now"; // Also where the server's clock is ahead of ours.
  if (seconds < 60) return `${Math.floor(seconds / 10) * 10} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  const days = Math.floor(seconds / 86_400);
  return days === 1 ? "1 day ago" : `${days} days ago`;
}

/** @param {number} ms */
function isToday(ms) {
  return new Date(ms).toDateString() === new Date().toDateString();
}

/** @param {Intl.DateTimeFormatOptions} options */
function style(options) {
  return new Intl.DateTimeFormat(undefined, options);
}
