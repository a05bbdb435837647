/**
 * The statistics of the service, as `GET /v1/dashboard` streams them.
 *
 * The server takes samples only while such a stream is open, so it is closed as soon as nobody sees the dashboard.
 */

import { backoff, closePolicy } from "../stream/close-policy.js";
import { openStream, readEvents, StreamClosed } from "../stream/http-stream.js";

/** @import { Severity } from "../stream/wire-types.js" */

/** @typedef {Record<Severity, number>} BySeverity */

/**
 * In seconds: from the event to the socket, and from there to the receipt.
 * @typedef {object} Latency
 * @property {number} deliveries
 * @property {number | null} sent_p50
 * @property {number | null} sent_p99
 * @property {number | null} received_p50
 * @property {number | null} received_p99
 */

/**
 * @typedef {object} Minute
 * @property {string} at
 * @property {BySeverity} alerts  How many in the minute.
 * @property {number | null} deliveries  How many in the minute; null: unknown.
 * @property {number | null} connections
 * @property {Latency} latency
 */

/** @typedef {{type: "history", at: string, every: number, minutes: Minute[]}} History */

/**
 * @typedef {object} Figures
 * @property {"figures"} type
 * @property {string} at
 * @property {string | null} measured_at  When PostgreSQL last answered.
 * @property {BySeverity | null} alerts  Per second.
 * @property {number | null} deliveries  Per second.
 * @property {Latency | null} latency
 * @property {number} connections
 * @property {number} lagging
 * @property {number} lag
 * @property {{serving: number, answered: number}} nodes
 * @property {{reachable: boolean, commit_seconds: number | null, queue: number, pool_in_use: number, pool_size: number,
 *   log_events: number, log_bytes: number | null}} database
 */

/**
 * @typedef {object} StatsListener
 * @property {(history: History) => void} onHistory
 * @property {(figures: Figures) => void} onFigures
 * @property {(reason: string) => void} onLost  The stream ended, for now or for good: see `closePolicy`.
 */

const SILENT_MS = 15_000;

export class StatsStream {
  #token;
  #listener;
  /** @type {AbortController | null} */ #attempt = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #failures = 0;

  /** @param {string} token @param {StatsListener} listener */
  constructor(token, listener) {
    this.#token = token;
    this.#listener = listener;
    this.#connect();
  }

  close() {
    this.#attempt?.abort();
    this.#attempt = null;
    clearTimeout(this.#timer);
  }

  async #connect() {
    const attempt = new AbortController();
    this.#attempt = attempt;
    const end = await this.#read(attempt);
    if (attempt !== this.#attempt) return;
    const reason = end.reason || "connection_lost";
    this.#listener.onLost(reason);
    const policy = closePolicy(end.code, reason);
    if (policy === "refresh" || policy === "stop") return; // A fresh token comes with a new stream.
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#connect(), backoff(this.#failures, policy));
  }

  /** Reads until the end, and returns why it ended. @param {AbortController} attempt */
  async #read(attempt) {
    const restartTimeout = () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => attempt.abort(), SILENT_MS);
    };
    restartTimeout();
    try {
      const options = { token: this.#token, accept: "text/event-stream", signal: attempt.signal };
      for await (const data of readEvents(await openStream("v1/dashboard", options))) {
        restartTimeout();
        this.#failures = 0;
        const frame = JSON.parse(data);
        if (frame.type === "history") this.#listener.onHistory(frame);
        else if (frame.type === "figures") this.#listener.onFigures(frame);
      }
    } catch (error) {
      if (error instanceof StreamClosed) return error;
      // Anything else is a failure of the network, or the timeout.
    }
    return new StreamClosed(1006, "");
  }
}
