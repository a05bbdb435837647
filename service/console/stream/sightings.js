/**
 * Sightings: the alerts that somebody saw, sent in batches.
 *
 * They wait until there is a connection. Those sent since the last heartbeat are sent again on the next connection: the
 * node may have been lost with them. Repetitions have no effect.
 */

import { SEEN_MAX } from "./wire-constants.js";

const DELAY_MS = 500;
const WAITING_MAX = 5_000;

export class Sightings {
  #send;
  #onReported;
  /** @type {Set<string>} */ #waiting = new Set();
  /** Since the last heartbeat, and whether they were sent or still are being sent. @type {Map<string, boolean>} */
  #recent = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;

  /**
   * @param {(alerts: string[]) => boolean | Promise<boolean>} send  Returns whether they were sent.
   * @param {(alerts: string[]) => void} onReported  They were sent, and a heartbeat followed.
   */
  constructor(send, onReported = () => {}) {
    this.#send = send;
    this.#onReported = onReported;
  }

  /** @param {Iterable<string>} alerts  Their ids. */
  add(alerts) {
    for (const id of alerts) if (this.#waiting.size < WAITING_MAX && !this.#recent.has(id)) this.#waiting.add(id);
    this.schedule();
  }

  /** Sends what waits, soon. */
  schedule() {
    if (this.#waiting.size > 0) this.#timer ??= setTimeout(() => this.flush(), DELAY_MS);
  }

  /** Sends what waits, now. */
  flush() {
    this.pause();
    const alerts = [...this.#waiting];
    this.#waiting.clear();
    for (let start = 0; start < alerts.length; start += SEEN_MAX)
      this.#sendBatch(alerts.slice(start, start + SEEN_MAX));
  }

  /** A heartbeat: the node that they were sent to has lived on. */
  settle() {
    const sent = [...this.#recent].filter(([, isSent]) => isSent).map(([id]) => id);
    for (const id of sent) this.#recent.delete(id);
    if (sent.length > 0) this.#onReported(sent);
    this.schedule();
  }

  /** A new connection is open. */
  resend() {
    const recent = [...this.#recent.keys()];
    this.#recent.clear();
    this.add(recent);
  }

  /** Stops the timer: the connection is closed. */
  pause() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** @param {string[]} alerts */
  async #sendBatch(alerts) {
    for (const id of alerts) this.#recent.set(id, false);
    const isSent = await this.#send(alerts);
    for (const id of alerts) {
      if (!this.#recent.has(id)) continue;
      if (isSent) this.#recent.set(id, true);
      else if (this.#recent.delete(id)) this.#waiting.add(id); // The next heartbeat sends them again.
    }
  }
}
