/**
 * Severities, and their order.
 */

/** @import { Severity } from "./wire-types.js" */

/** The least severe first. @type {readonly Severity[]} */
export const SEVERITIES = ["info", "warning", "error", "critical"];

/** Above 0 where one is more severe than the other, below 0 where it is less severe. @param {Severity} one @param {Severity} other */
export function compareSeverity(one, other) {
  return SEVERITIES.indexOf(one) - SEVERITIES.indexOf(other);
}
