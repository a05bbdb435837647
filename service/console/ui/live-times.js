/**
 * `<time>` elements that show an age or a countdown, with the exact time as a tooltip. They are updated every second while
 * they are in the document.
 */

import { element, write } from "./dom.js";
import { ago, exactTime, untilTime } from "./format.js";

/** @type {Record<string, (timestamp: string) => string>} */
const FORMATS = { age: ago, countdown: untilTime };

/** @param {string} timestamp  RFC 3339. */
export function age(timestamp) {
  return liveTime("age", timestamp);
}

/** @param {string} timestamp  RFC 3339. */
export function countdown(timestamp) {
  return liveTime("countdown", timestamp);
}

/** @param {"age" | "countdown"} kind @param {string} timestamp */
function liveTime(kind, timestamp) {
  return element("time", { class: kind, datetime: timestamp, title: exactTime(timestamp) }, FORMATS[kind](timestamp));
}

setInterval(() => {
  for (const time of document.querySelectorAll("time")) {
    if (time.className in FORMATS) write(time, FORMATS[time.className](time.dateTime));
  }
}, 1_000);
