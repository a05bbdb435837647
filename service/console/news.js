/**
 * New alerts for those who do not see the page: spoken by a screen reader.
 */

import { byId } from "./dom.js";

/** @import { Alert } from "./wire.js" */

const COLLECT_MS = 1_000;
const READ_OUT_AT_MOST = 3;

export class News {
  #region = byId("news");
  /** @type {Alert[]} */ #waiting = [];

  /** @param {Alert} alert */
  add(alert) {
    // A burst is spoken as one sentence: a queue of fifty would go on long after everybody has seen them.
    if (this.#waiting.push(alert) === 1) setTimeout(() => this.#speak(), COLLECT_MS);
  }

  #speak() {
    const alerts = this.#waiting;
    this.#waiting = [];
    const critical = alerts.filter(({ severity }) => severity === "critical").length;
    this.#region.textContent =
      alerts.length > READ_OUT_AT_MOST
        ? `${alerts.length} new alerts, ${critical} critical`
        : alerts.map(({ severity, title, topic }) => `${severity}: ${title}, ${topic}`).join(". ");
  }
}
