/**
 * Times, durations, numbers and sizes as text.
 */

const minutes = { today: style({ timeStyle: "short" }), other: style({ dateStyle: "medium", timeStyle: "short" }) };
const seconds = { today: style({ timeStyle: "medium" }), other: style({ dateStyle: "medium", timeStyle: "medium" }) };
const exact = style({ dateStyle: "medium", timeStyle: "long" });
const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 2 });
const longer = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });

/** What stands in the place of a number that is not known. */
export const UNKNOWN = "–";

/**
 * The time of day to the minute, with the date unless it is today.
 * @param {number} ms  Since the epoch.
 */
export function timeOfDay(ms) {
  return (isToday(ms) ? minutes.today : minutes.other).format(ms);
}

/**
 * The time of day to the second, with the date unless it is today.
 * @param {number} ms  Since the epoch.
 */
export function secondOfDay(ms) {
  return (isToday(ms) ? seconds.today : seconds.other).format(ms);
}

/**
 * The exact time, in the browser's time zone and as the server wrote it, so that it can be found in logs and SQL.
 * @param {string} timestamp  RFC 3339.
 */
export function exactTime(timestamp) {
  return `${exact.format(new Date(timestamp))} (${timestamp})`;
}

/**
 * How long ago something was: `just now`, `20 s ago`, `3 min ago`, `1 day ago`.
 * @param {string} timestamp  RFC 3339.
 */
export function ago(timestamp) {
  const seconds = (Date.now() - Date.parse(timestamp)) / 1000;
  if (seconds < 10) return "just now"; // Also where the server's clock is ahead of the browser's.
  if (seconds < 60) return `${Math.floor(seconds / 10) * 10} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  const days = Math.floor(seconds / 86_400);
  return days === 1 ? "1 day ago" : `${days} days ago`;
}

/**
 * How long until something happens: `in 4 min 12 s`, or `now`.
 * @param {string} timestamp  RFC 3339.
 */
export function untilTime(timestamp) {
  const left = Date.parse(timestamp) - Date.now();
  return left > 0 ? `in ${inWholeSeconds(left)}` : "now";
}

/**
 * A duration in at most two units: `41 ms`, `3.2 s`, `4 min 12 s`, `2 h 5 min`.
 * @param {number} ms
 */
export function formatDuration(ms) {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  return inWholeSeconds(ms);
}

/** @param {number | null} value */
export function count(value) {
  return value === null ? UNKNOWN : whole.format(value);
}

/** @param {number | null} value  Per second. */
export function rate(value) {
  if (value === null) return UNKNOWN;
  return `${(value >= 100 ? whole : short).format(value)}/s`;
}

/** @param {number | null} value  In seconds. */
export function duration(value) {
  if (value === null) return UNKNOWN;
  if (value >= 100) return `${whole.format(value)} s`;
  if (value >= 1) return `${longer.format(value)} s`;
  return value > 0 ? `${value < 0.1 ? short.format(value * 1000) : longer.format(value * 1000)} ms` : "0 ms";
}

/** @param {number | null} value */
export function bytes(value) {
  if (value === null) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = value < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(value) / 10));
  return `${longer.format(value / 1024 ** step)} ${units[step]}`;
}

/** @param {number} ms */
function inWholeSeconds(ms) {
  const seconds = Math.ceil(ms / 1_000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min${unlessZero(seconds % 60, "s")}`;
  if (seconds < 86_400)
    return `${Math.floor(seconds / 3_600)} h${unlessZero(Math.floor((seconds % 3_600) / 60), "min")}`;
  return `${Math.floor(seconds / 86_400)} d${unlessZero(Math.floor((seconds % 86_400) / 3_600), "h")}`;
}

/** @param {number} count @param {string} unit */
function unlessZero(count, unit) {
  return count ? ` ${count} ${unit}` : "";
}

/** @param {number} ms */
function isToday(ms) {
  return new Date(ms).toDateString() === new Date().toDateString();
}

/** @param {Intl.DateTimeFormatOptions} options */
function style(options) {
  return new Intl.DateTimeFormat(undefined, options);
}
