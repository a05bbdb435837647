/**
 * Times, durations, numbers and sizes as text.
 */

const minutes = { today: style({ timeStyle: "short" }), other: style({ dateStyle: "medium", timeStyle: "short" }) };
const seconds = { today: style({ timeStyle: "medium" }), other: style({ dateStyle: "medium", timeStyle: "medium" }) };
const exact = style({ dateStyle: "medium", timeStyle: "long" });
const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 2 });
const longer = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });
const DURATION_UNITS = [
  { size: 1, name: "s" },
  { size: 60, name: "min" },
  { size: 3_600, name: "h" },
  { size: 86_400, name: "d" },
];

/** Shown in the place of a number that is not known. */
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
 * A duration: `0.4 ms`, `41 ms`, `3.2 s`, `4 min 12 s`, `2 h 5 min`, `1 d 3 h`.
 * @param {number} ms
 * @param {1 | 2} [units]  How many units to show at most: with 1, `4 min`, `2 h`, `1 d`.
 */
export function formatDuration(ms, units = 2) {
  if (ms < 1_000) return `${(ms < 100 ? short : longer).format(Math.max(0, ms))} ms`;
  if (ms < 10_000) return `${short.format(ms / 1_000)} s`;
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 60) return `${seconds} s`;
  const first = DURATION_UNITS.findLastIndex(({ size }) => seconds >= size);
  const { size, name } = DURATION_UNITS[first];
  const smaller = DURATION_UNITS[first - 1];
  const rest = Math.floor((seconds % size) / smaller.size);
  return `${Math.floor(seconds / size)} ${name}${units > 1 && rest ? ` ${rest} ${smaller.name}` : ""}`;
}

/**
 * How long ago something was: `just now`, `20 s ago`, `3 min ago`, `1 d ago`.
 * @param {string} timestamp  RFC 3339.
 */
export function ago(timestamp) {
  const ms = Date.now() - Date.parse(timestamp);
  if (ms < 10_000) return "just now"; // Also where the server's clock is ahead of the browser's.
  return `${formatDuration(ms < 60_000 ? ms - (ms % 10_000) : ms, 1)} ago`;
}

/**
 * How long until something happens: `in 4 min 12 s`, or `now`.
 * @param {string} timestamp  RFC 3339.
 */
export function untilTime(timestamp) {
  const seconds = Math.ceil((Date.parse(timestamp) - Date.now()) / 1_000);
  return seconds > 0 ? `in ${formatDuration(seconds * 1_000)}` : "now";
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
  return value === null ? UNKNOWN : formatDuration(value * 1_000);
}

/** @param {number | null} value */
export function bytes(value) {
  if (value === null) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = value < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(value) / 10));
  return `${longer.format(value / 1024 ** step)} ${units[step]}`;
}

/** @param {number} ms */
function isToday(ms) {
  return new Date(ms).toDateString() === new Date().toDateString();
}

/** @param {Intl.DateTimeFormatOptions} options */
function style(options) {
  return new Intl.DateTimeFormat(undefined, options);
}
