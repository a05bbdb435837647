/**
 * `<time>` elements that show an age or a countdown, with the exact time as a tooltip, and the timers that keep them current.
 */

import { element, write } from "./dom.js";
import { ago, exactTime, untilTime } from "./format.js";

const AGE_REFRESH_MS = 5_000;
const COUNTDOWN_REFRESH_MS = 1_000;

/**
 * An age. `keepAgesCurrent` updates it while it is in the document.
 * @param {string} timestamp  RFC 3339.
 */
export function age(timestamp) {
  return element("time", { class: "age", datetime: timestamp, title: exactTime(timestamp) }, ago(timestamp));
}

/**
 * A countdown. `keepCountdownsCurrent` updates it while it is in the document.
 * @param {string} timestamp  RFC 3339.
 */
export function countdown(timestamp) {
  return element(
    "time",
    { class: "countdown", datetime: timestamp, title: exactTime(timestamp) },
    untilTime(timestamp),
  );
}

/** @param {ParentNode} root */
export function keepAgesCurrent(root) {
  setInterval(() => refresh(root, "time.age", ago), AGE_REFRESH_MS);
}

/** @param {ParentNode} root */
export function keepCountdownsCurrent(root) {
  setInterval(() => refresh(root, "time.countdown", untilTime), COUNTDOWN_REFRESH_MS);
}

/** @param {ParentNode} root @param {string} selector @param {(timestamp: string) => string} format */
function refresh(root, selector, format) {
  const times = /** @type {NodeListOf<HTMLTimeElement>} */ (root.querySelectorAll(selector));
  for (const time of times) write(time, format(time.dateTime));
}
