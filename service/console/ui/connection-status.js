/**
 * The line that always says how the connection is.
 *
 * It is a live region, so what a screen reader hears must not change by the second: the countdown is hidden from it, and
 * the attempts of one outage all read "Reconnecting, offline since …".
 */

import { byId, write } from "./dom.js";
import { secondOfDay } from "./format.js";

/** @import { Status } from "../stream/stream-client.js" */

const LABELS = {
  "signed-out": "Signed out",
  connecting: "Connecting",
  "catching-up": "Catching up",
  live: "Live",
  waiting: "Reconnecting",
};

export class ConnectionStatus {
  #line = byId("state");
  #label = byId("state-label");
  #countdown = byId("state-countdown");
  #detail = byId("state-detail");
  #retry = byId("retry");
  /** @type {number | undefined} */ #timer;

  /** @param {() => void} onRetry  "Retry now" was pressed. */
  constructor(onRetry) {
    this.#retry.addEventListener("click", onRetry);
  }

  /** @param {Status} status */
  show({ state, reason, since, transport, retryAt }) {
    const interrupted = since !== null && (state === "connecting" || state === "waiting");
    this.#line.dataset.state = state;
    this.#line.dataset.transport = transport;
    write(this.#label, interrupted ? LABELS.waiting : LABELS[state]);
    write(this.#detail, detailOf(state, reason, interrupted ? since : null));
    this.#showRetry(state === "waiting" || interrupted);
    clearInterval(this.#timer);
    this.#showCountdown(retryAt);
    if (retryAt) this.#timer = setInterval(() => this.#showCountdown(retryAt), 250);
  }

  /** It stays for the whole of an outage: who pressed it has the focus there. @param {boolean} offered */
  #showRetry(offered) {
    const hadFocus = document.activeElement === this.#retry;
    this.#retry.hidden = !offered;
    if (hadFocus && !offered) this.#line.focus();
  }

  /** @param {number | null} retryAt */
  #showCountdown(retryAt) {
    const seconds = retryAt && Math.ceil((retryAt - Date.now()) / 1000);
    write(this.#countdown, seconds && seconds > 0 ? `in ${seconds} s` : "");
  }
}

/**
 * @param {Status["state"]} state
 * @param {string | null} reason
 * @param {number | null} since
 */
function detailOf(state, reason, since) {
  const why = reason?.replaceAll("_", " ") ?? "";
  if (since !== null) return `offline since ${secondOfDay(since)}${why && `, ${why}`}`;
  return state === "signed-out" ? why : "";
}
