/**
 * New alerts for those who do not see the page: spoken by a screen reader.
 */

import { byId } from "./dom.js";

/** @import { Alert } from "../stream/wire-types.js" */

const COLLECT_MS = 1_000;
const READ_OUT_AT_MOST = 3;
const AFTER_BURST_MS = 15_000;

export class News {
  #region = byId("news");
  /** @type {Alert[]} */ #waiting = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #quietUntil = 0;

  /** @param {Alert} alert */
  add(alert) {
    // A burst is spoken as one sentence: a queue of fifty would go on long after everybody has seen them. One that goes
    // on is spoken of now and then, so that other things can still be heard.
    if (this.#waiting.push(alert) === 1) {
      this.#timer = setTimeout(() => this.#speak(), Math.max(COLLECT_MS, this.#quietUntil - Date.now()));
    }
  }

  /** Nobody is signed in any more: what was news to one is not for the next. */
  clear() {
    clearTimeout(this.#timer);
    this.#waiting = [];
    this.#quietUntil = 0;
    this.#region.textContent = "";
  }

  #speak() {
    const alerts = this.#waiting;
    this.#waiting = [];
    if (alerts.length > READ_OUT_AT_MOST) this.#quietUntil = Date.now() + AFTER_BURST_MS;
    const critical = alerts.filter(({ severity }) => severity === "critical").length;
    this.#region.textContent =
      alerts.length > READ_OUT_AT_MOST
        ? `${alerts.length} new alerts, ${critical} critical`
        : alerts.map(({ severity, title, topic }) => `${severity}: ${title}, ${topic}`).join(". ");
  }
}
