/**
 * The difference between this computer's clock and the server's, by the `Date` of its responses (RFC 9110, section 6.6.1).
 *
 * A date has the precision of a second, servers cache it for another, and it was true at some moment between request and
 * response. So each response gives bounds for the difference, and only a certain difference is reported.
 */

import { formatDuration } from "./format.js";

const REPORTED_FROM_MS = 5_000;
const DATE_PRECISION_MS = 2_000;

let offset = 0;
let isReported = false;
/** @type {(offset: number) => void} */ let listener = () => {};

/** The server's time, in ms since the epoch. */
export function serverNow() {
  return Date.now() + offset;
}

/** Calls back once, if the clocks are certainly more than 5 s apart. @param {(offset: number) => void} callback */
export function onSkew(callback) {
  listener = callback;
}

/**
 * @param {string | null} date  Of the response.
 * @param {number} sentAt       When the request was made, by this computer's clock.
 */
export function compareClocks(date, sentAt) {
  const served = Date.parse(date ?? "");
  if (Number.isNaN(served)) return;
  const least = served - Date.now();
  const most = served + DATE_PRECISION_MS - sentAt;
  offset = least > 0 || most < 0 ? (least + most) / 2 : 0;
  if (isReported || (least <= REPORTED_FROM_MS && most >= -REPORTED_FROM_MS)) return;
  isReported = true;
  listener(offset);
}

/** @param {number} skew  In ms; positive: this computer's clock is behind. */
export function describeSkew(skew) {
  const amount = formatDuration(Math.round(Math.abs(skew) / 1_000) * 1_000);
  return (
    `The clock of this computer is ${amount} ${skew > 0 ? "behind" : "ahead of"} the server's. ` +
    "Ages and times on this page are off by as much."
  );
}
