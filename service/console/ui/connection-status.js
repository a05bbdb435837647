/**
 * The status of the connection, in the header.
 *
 * It is a live region, so its text must not change every second: the countdown is hidden from screen readers, and all
 * attempts of an outage read "Reconnecting, offline since …".
 */

import { byId, write } from "./dom.js";
import { secondOfDay } from "./format.js";
import { countdown } from "./live-times.js";

/** @import { Status } from "../stream/stream-client.js" */

export const STATE_LABELS = {
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

  /** @param {() => void} onRetry  "Retry now" was pressed. */
  constructor(onRetry) {
    this.#retry.addEventListener("click", onRetry);
  }

  /** @param {Status} status */
  show({ state, reason, since, transport, retryAt }) {
    const interrupted = since !== null && (state === "connecting" || state === "waiting");
    this.#line.dataset.state = state;
    this.#line.dataset.transport = transport;
    write(this.#label, interrupted ? STATE_LABELS.waiting : STATE_LABELS[state]);
    write(this.#detail, detailOf(state, reason, interrupted ? since : null));
    this.#showRetry(state === "waiting" || interrupted);
    this.#countdown.replaceChildren(retryAt ? countdown(new Date(retryAt).toISOString()) : "");
  }

  /** The button stays for the whole outage: it may have the focus. @param {boolean} offered */
  #showRetry(offered) {
    const hadFocus = document.activeElement === this.#retry;
    this.#retry.hidden = !offered;
    if (hadFocus && !offered) this.#line.focus();
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
