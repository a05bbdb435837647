/**
 * When an admin wants to be notified, kept in this browser for all of its tabs.
 */

import { compareSeverity, isCritical } from "../stream/severity.js";
import { SEVERITIES } from "../stream/wire-constants.js";
import { onWrittenInOtherTab, read, write } from "./local-storage.js";

/** @import { Severity } from "../stream/wire-types.js" */

/** The least severe alert that notifies; "off": none does. @typedef {Severity | "off"} Threshold */

/**
 * @typedef {object} Preferences
 * @property {Threshold} notify  Desktop notifications.
 * @property {Threshold} sound
 * @property {boolean} quiet     Whether there are quiet hours.
 * @property {string} quietFrom  Local time, `22:00`.
 * @property {string} quietTo    Earlier than `quietFrom`: on the next day.
 * @property {boolean} criticalAlways  Critical alerts notify in quiet hours too.
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

/** The stored preferences, or the defaults. */
export function load() {
  return parse(read(KEY));
}

/** @param {Preferences} preferences */
export function save(preferences) {
  write(KEY, JSON.stringify(preferences));
}

/** Calls back when another tab saves. @param {(preferences: Preferences) => void} callback */
export function onSavedInOtherTab(callback) {
  onWrittenInOtherTab(KEY, (text) => callback(parse(text)));
}

/** @param {Threshold} threshold @param {Severity} severity */
export function meetsThreshold(threshold, severity) {
  return threshold !== "off" && compareSeverity(severity, threshold) >= 0;
}

/**
 * Whether the quiet hours let an alert notify, by this computer's clock.
 * @param {Preferences} preferences
 * @param {Severity} severity
 * @param {Date} now
 */
export function mayNotifyAt({ quiet, quietFrom, quietTo, criticalAlways }, severity, now) {
  if (!quiet || (criticalAlways && isCritical(severity))) return true;
  const time = `${String(now.getHours()).padStart(2, "0")}:${String(now.getMinutes()).padStart(2, "0")}`;
  const isQuiet = quietFrom <= quietTo ? quietFrom <= time && time < quietTo : quietFrom <= time || time < quietTo;
  return !isQuiet;
}

/** Another version of this page may have written anything. @param {string | null} text @returns {Preferences} */
function parse(text) {
  /** @type {any} */ let stored;
  try {
    stored = JSON.parse(text ?? "{}") ?? {};
  } catch {
    return DEFAULTS;
  }
  const threshold = (/** @type {unknown} */ value) => SEVERITIES.find((known) => known === value) ?? "off";
  const time = (/** @type {unknown} */ value, /** @type {string} */ other) =>
    typeof value === "string" && /^([01]\d|2[0-3]):[0-5]\d$/.test(value) ? value : other;
  return {
    notify: threshold(stored.notify),
    sound: threshold(stored.sound),
    quiet: stored.quiet === true,
    quietFrom: time(stored.quietFrom, DEFAULTS.quietFrom),
    quietTo: time(stored.quietTo, DEFAULTS.quietTo),
    criticalAlways: stored.criticalAlways !== false,
  };
}
