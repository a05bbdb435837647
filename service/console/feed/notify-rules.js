/**
 * Which events notify: an alert that is new, that is open again, or that has become more severe.
 *
 * A more severe repetition reopens an acknowledged alert; its event only says "repeated".
 */

import { compareSeverity, isCritical } from "../stream/severity.js";

/** @import { Alert, EventFrame } from "../stream/wire-types.js" */

const RAISING = new Set(["alert.created", "alert.reopened", "alert.escalated"]);

/**
 * @param {EventFrame} event
 * @param {Pick<Alert, "severity"> | null} before  What we had of the alert; null: nothing.
 * @param {boolean} isPinned                       Whether it was known to be critical and open.
 */
export function shouldNotify({ kind, alert }, before, isPinned) {
  if (RAISING.has(kind)) return true;
  if (kind !== "alert.repeated" || alert.status !== "open") return false;
  if (before) return compareSeverity(alert.severity, before.severity) > 0;
  const reopenedByThis = alert.status_at === alert.updated_at;
  return reopenedByThis || (isCritical(alert.severity) && !isPinned);
}
