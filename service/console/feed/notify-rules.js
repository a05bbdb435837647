/**
 * Which events call somebody: an alert that is new, that is open again, or that has become graver than it was.
 *
 * A graver repetition reopens what was acknowledged, for what was acknowledged was less; the event only says "repeated".
 */

import { compare } from "../stream/severity.js";

/** @import { Alert, EventFrame } from "../stream/wire-types.js" */

const RAISING = new Set(["alert.created", "alert.reopened", "alert.escalated"]);

/**
 * @param {EventFrame} event
 * @param {Pick<Alert, "severity"> | null} before  What we had of the alert; null: nothing.
 * @param {boolean} isPinned                       Whether it was known to be critical and open.
 */
export function raises({ kind, alert }, before, isPinned) {
  if (RAISING.has(kind)) return true;
  if (kind !== "alert.repeated" || alert.status !== "open") return false;
  if (before) return compare(alert.severity, before.severity) > 0;
  const reopenedByThis = alert.status_at === alert.updated_at;
  return reopenedByThis || (alert.severity === "critical" && !isPinned);
}
