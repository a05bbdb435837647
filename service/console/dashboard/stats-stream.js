/**
 * The figures of the service, as `GET /v1/dashboard` pushes them: read while somebody looks, and only then.
 *
 * The server samples for as long as this is open, so whoever opens it closes it as soon as nobody sees the figures.
 */

import { backoff, closePolicy } from "../stream/close-policy.js";

/** @import { Severity } from "../stream/wire-types.js" */

/** @typedef {Record<Severity, number>} BySeverity */

/**
 * In seconds: from the event to the socket, and from there to the acknowledgement.
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
 * @property {number | null} deliveries  How many in the minute; null: nobody knows any more.
 * @property {number | null} connections
 * @property {Latency} latency
 */

/** @typedef {{type: "history", at: string, every: number, minutes: Minute[]}} History */

/**
 * @typedef {object} Figures
 * @property {"figures"} type
 * @property {string} at
 * @property {string | null} measured_at  When PostgreSQL last answered; what it knows is of then.
 * @property {BySeverity | null} alerts  A second.
 * @property {number | null} deliveries  A second.
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
 * @property {(reason: string) => void} onLost  Nothing comes for now, or for good: see `closePolicy`.
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
    let end = { code: 1006, reason: "connection_lost" };
    try {
      end = (await this.#read(attempt)) ?? end;
    } catch {
      // The network did it, or the silence.
    }
    if (attempt !== this.#attempt) return;
    this.#listener.onLost(end.reason);
    const policy = closePolicy(end.code, end.reason);
    if (policy === "refresh" || policy === "stop") return; // A fresh token comes with a new stream.
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#connect(), backoff(this.#failures, policy));
  }

  /**
   * Reads until the end.
   * @param {AbortController} attempt
   * @returns {Promise<{code: number, reason: string} | null>}
   */
  async #read(attempt) {
    const silence = () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => attempt.abort(), SILENT_MS);
    };
    silence();
    const headers = { Authorization: `Bearer ${this.#token}`, Accept: "text/event-stream" };
    const options = { headers, cache: /** @type {const} */ ("no-store"), signal: attempt.signal };
    const response = await fetch("/v1/dashboard", { ...options, credentials: "omit" });
    if (!response.ok) {
      const problem = await response.json().catch(() => ({})); // A proxy's own page is no problem document.
      return { code: response.status < 500 ? 1008 : 1006, reason: problem.code ?? `http_${response.status}` };
    }
    const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
    const decoder = new TextDecoder();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done || attempt.signal.aborted) return null;
      silence();
      const messages = (text + decoder.decode(value, { stream: true })).split("\n\n");
      text = messages.pop() ?? "";
      for (const message of messages) {
        const frame = JSON.parse(message.slice("data: ".length));
        if (frame.type === "close") return frame;
        this.#dispatch(frame);
      }
    }
  }

  /** @param {History | Figures} frame */
  #dispatch(frame) {
    this.#failures = 0;
    if (frame.type === "history") this.#listener.onHistory(frame);
    else if (frame.type === "figures") this.#listener.onFigures(frame);
  }
}
