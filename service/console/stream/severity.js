/**
 * The order of severities, and which is critical.
 */

import { SEVERITIES } from "./wire-constants.js";

/** @import { Severity } from "./wire-types.js" */

/** Positive where one is more severe than the other, negative where it is less. @param {Severity} one @param {Severity} other */
export function compareSeverity(one, other) {
  return SEVERITIES.indexOf(one) - SEVERITIES.indexOf(other);
}

/** @param {Severity} severity */
export function isCritical(severity) {
  return severity === "critical";
}
