/**
 * New alerts for those who do not see the page: spoken by a screen reader.
 */

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
    // A burst is spoken as one sentence: a queue of fifty would go on long after everybody has seen them. One that goes
    // on is spoken of now and then, so that other things can still be heard.
    if (this.#pending.push(alert) === 1) {
      this.#timer = setTimeout(() => this.#announce(), Math.max(COLLECT_MS, this.#silentUntil - Date.now()));
    }
  }

  /** Nobody is signed in any more: what was news to one is not for the next. */
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
    const critical = alerts.filter(({ severity }) => severity === "critical").length;
    this.#region.textContent =
      alerts.length > ANNOUNCED_MAX
        ? `${alerts.length} new alerts, ${critical} critical`
        : alerts.map(({ severity, title, topic }) => `${severity}: ${title}, ${topic}`).join(". ");
  }
}
