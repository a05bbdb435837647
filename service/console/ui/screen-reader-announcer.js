/**
 * Announces new alerts to screen readers.
 */

import { isCritical } from "../stream/severity.js";
import { byId } from "./dom.js";

/** @import { Alert } from "../stream/wire-types.js" */

const COLLECT_MS = 1_000;
const ANNOUNCED_MAX = 3;
const AFTER_BURST_MS = 15_000;

export class ScreenReaderAnnouncer {
  #region = byId("announcer");
  /** @type {Alert[]} */ #pending = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #silentUntil = 0;

  /** @param {Alert} alert */
  add(alert) {
    // A burst is announced in one sentence: fifty titles would be read out long after they are on the screen. While it
    // lasts, announcements are rare, so that other things can be read out.
    if (this.#pending.push(alert) === 1) {
      this.#timer = setTimeout(() => this.#announce(), Math.max(COLLECT_MS, this.#silentUntil - Date.now()));
    }
  }

  /** The session ended: the next one must not hear of these alerts. */
  clear() {
    clearTimeout(this.#timer);
    this.#pending = [];
    this.#silentUntil = 0;
    this.#region.textContent = "";
  }

  #announce() {
    const alerts = this.#pending;
    this.#pending = [];
    if (alerts.length > ANNOUNCED_MAX) this.#silentUntil = Date.now() + AFTER_BURST_MS;
    const critical = alerts.filter(({ severity }) => isCritical(severity)).length;
    this.#region.textContent =
      alerts.length > ANNOUNCED_MAX
        ? `${alerts.length} new alerts, ${critical} critical`
        : alerts.map(({ severity, title, topic }) => `${severity}: ${title}, ${topic}`).join(". ");
  }
}
