/**
 * How an admin wants to be called, remembered in `localStorage`: for this browser, and for all of its tabs.
 */

import { compareSeverity, SEVERITIES } from "../stream/severity.js";

/** @import { Severity } from "../stream/wire-types.js" */

/** From which severity on; "off" for never. @typedef {Severity | "off"} Threshold */

/**
 * @typedef {object} Preferences
 * @property {Threshold} notify  Desktop notifications.
 * @property {Threshold} sound
 * @property {boolean} quiet     Whether there are quiet hours.
 * @property {string} quietFrom  Local time, `22:00`.
 * @property {string} quietTo    Before `quietFrom`: of the next day.
 * @property {boolean} criticalAlways  Critical alerts call in quiet hours too.
 */

const KEY = "tocsin.notifications";

/** @type {Readonly<Preferences>} */
const DEFAULTS = {
  notify: "off",
  sound: "off",
  quiet: false,
  quietFrom: "22:00",
  quietTo: "07:00",
  criticalAlways: true,
};

/** What is kept, or the default where it cannot be read. */
export function load() {
  try {
    return sanitize(JSON.parse(localStorage.getItem(KEY) ?? "{}"));
  } catch {
    return DEFAULTS;
  }
}

/** @param {Preferences} preferences */
export function save(preferences) {
  try {
    localStorage.setItem(KEY, JSON.stringify(preferences));
  } catch {
    // Storage is blocked in this browser: then they hold until the page is closed.
  }
}

/** Calls back when another tab has saved. @param {(preferences: Preferences) => void} callback */
export function onChangedInOtherTab(callback) {
  addEventListener("storage", ({ key }) => key === KEY && callback(load()));
}

/** @param {Threshold} threshold @param {Severity} severity */
export function meetsThreshold(threshold, severity) {
  return threshold !== "off" && compareSeverity(severity, threshold) >= 0;
}

/**
 * Whether an alert may call at a time of day, by this computer's clock.
 * @param {Preferences} preferences
 * @param {Severity} severity
 * @param {Date} now
 */
export function mayNotifyAt({ quiet, quietFrom, quietTo, criticalAlways }, severity, now) {
  if (!quiet || (criticalAlways && severity === "critical")) return true;
  const time = `${String(now.getHours()).padStart(2, "0")}:${String(now.getMinutes()).padStart(2, "0")}`;
  const isQuiet = quietFrom <= quietTo ? quietFrom <= time && time < quietTo : quietFrom <= time || time < quietTo;
  return !isQuiet;
}

/** What another version of this page wrote may be anything. @param {any} kept @returns {Preferences} */
function sanitize(kept) {
  const threshold = (/** @type {unknown} */ value) => SEVERITIES.find((known) => known === value) ?? "off";
  const time = (/** @type {unknown} */ value, /** @type {string} */ other) =>
    typeof value === "string" && /^([01]\d|2[0-3]):[0-5]\d$/.test(value) ? value : other;
  return {
    notify: threshold(kept.notify),
    sound: threshold(kept.sound),
    quiet: kept.quiet === true,
    quietFrom: time(kept.quietFrom, DEFAULTS.quietFrom),
    quietTo: time(kept.quietTo, DEFAULTS.quietTo),
    criticalAlways: kept.criticalAlways !== false,
  };
}
