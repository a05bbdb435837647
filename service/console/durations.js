/**
 * How long something took, and how long until something happens.
 */

import { element, write } from "./dom.js";
import { exactTime } from "./time.js";

const REFRESH_MS = 1_000;

/**
 * A duration in two units at most: `41 ms`, `3.2 s`, `4 min 12 s`, `2 h 5 min`.
 * @param {number} ms
 */
export function inShort(ms) {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  return inWholeSeconds(ms);
}

/**
 * A `<time>` that counts down. `keepCountdownsCurrent` updates it for as long as it is in the document.
 * @param {string} timestamp  RFC 3339.
 */
export function countdown(timestamp) {
  return element("time", { class: "countdown", datetime: timestamp, title: exactTime(timestamp) }, until(timestamp));
}

/** @param {ParentNode} root */
export function keepCountdownsCurrent(root) {
  setInterval(() => {
    for (const time of /** @type {NodeListOf<HTMLTimeElement>} */ (root.querySelectorAll("time.countdown"))) {
      write(time, until(time.dateTime));
    }
  }, REFRESH_MS);
}

/** @param {string} timestamp */
function until(timestamp) {
  const left = Date.parse(timestamp) - Date.now();
  return left > 0 ? `in ${inWholeSeconds(left)}` : "now";
}

/** @param {number} ms */
function inWholeSeconds(ms) {
  const seconds = Math.ceil(ms / 1_000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min${unlessZero(seconds % 60, "s")}`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h${unlessZero(Math.floor((seconds % 3_600) / 60), "min")}`;
  return `${Math.floor(seconds / 86_400)} d${unlessZero(Math.floor((seconds % 86_400) / 3_600), "h")}`;
}

/** @param {number} count @param {string} unit */
function unlessZero(count, unit) {
  return count ? ` ${count} ${unit}` : "";
}
