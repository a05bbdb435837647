/**
 * How grave an alert is: the one order that filters, thresholds, charts and calls go by.
 */

/** @import { Severity } from "./wire-types.js" */

/** From the mildest. @type {readonly Severity[]} */
export const SEVERITIES = ["info", "warning", "error", "critical"];

/** Above 0 where one is graver than the other, below 0 where it is milder. @param {Severity} one @param {Severity} other */
export function compare(one, other) {
  return SEVERITIES.indexOf(one) - SEVERITIES.indexOf(other);
}
