/**
 * How far this computer's clock is from the server's, by the `Date` of its answers (RFC 9110, section 6.6.1).
 *
 * Such a date is cut to the second, servers keep it for another, and it was true at some moment between the request and
 * its answer. So each answer says between what bounds the difference lies, and only a difference that is certain is told.
 */

const REPORTED_FROM_MS = 5_000;
const DATE_PRECISION_MS = 2_000;

let offset = 0;
let isReported = false;
/** @type {(offset: number) => void} */ let listener = () => {};

/** The time at the server, in ms since the epoch, as far as we know. */
export function serverNow() {
  return Date.now() + offset;
}

/** Calls back once, when the clocks are certainly more than 5 s apart. @param {(offset: number) => void} callback */
export function onSkew(callback) {
  listener = callback;
}

/**
 * @param {string | null} date  The answer's.
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

/** @param {number} skew  In ms, the server's clock less ours. */
export function describeSkew(skew) {
  const seconds = Math.round(Math.abs(skew) / 1000);
  const amount =
    seconds < 120
      ? `${seconds} s`
      : seconds < 7200
        ? `${Math.round(seconds / 60)} min`
        : `${Math.round(seconds / 3600)} h`;
  return (
    `The clock of this computer is ${amount} ${skew > 0 ? "behind" : "ahead of"} the server's. ` +
    "Ages and times on this page are off by as much."
  );
}
