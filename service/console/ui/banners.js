/**
 * Banners for what must not be overlooked: the stream is down, or the token is about to expire.
 */

import { serverNow } from "./clock-skew.js";
import { byId, write } from "./dom.js";
import { explain } from "./error-messages.js";
import { formatDuration, secondOfDay } from "./format.js";

/** @import { Status } from "../stream/stream-client.js" */

const GRACE_MS = 2_000; // A shorter interruption is not shown.
const REFRESH_MS = 1_000;
const WARN_MS = 300_000;

/** The stream is down: since when; and afterwards, how many events arrived late. */
export class OutageBanner {
  #banner = byId("outage");
  #text = byId("outage-text");
  #duration = byId("outage-duration");
  #dismiss = byId("outage-dismiss");
  #onChange;
  /** @type {number | null} */ #since = null;
  #events = 0;
  /** @type {ReturnType<typeof setInterval> | undefined} */ #timer;

  /** @param {(isDown: boolean) => void} onChange */
  constructor(onChange) {
    this.#onChange = onChange;
    this.#dismiss.addEventListener("click", () => (this.#banner.hidden = true));
  }

  /** @param {Status} status */
  show({ state, since, reason }) {
    if (state === "live") return this.#showRecovery();
    if (since === null) return this.clear();
    if (this.#since === null) this.#events = 0;
    this.#since = since;
    clearInterval(this.#timer);
    if (state === "signed-out")
      return this.#showOutage(`Sign in again, and the page goes on from there. ${explain(reason ?? "")}`);
    if (!this.#banner.hidden && !this.#dismiss.hidden) this.#banner.hidden = true; // It is about the outage before.
    this.#timer = setInterval(() => this.#update(), REFRESH_MS);
    this.#update();
  }

  /** An event arrived. */
  count() {
    this.#events += 1;
  }

  /** There is no stream. */
  clear() {
    clearInterval(this.#timer);
    this.#since = null;
    this.#banner.hidden = true;
    this.#onChange(false);
  }

  #update() {
    if (this.#since === null || Date.now() - this.#since < GRACE_MS) return;
    this.#showOutage("It will be loaded as soon as the connection is back.");
  }

  /** The duration is hidden from screen readers, which would read the banner again each second. @param {string} hope */
  #showOutage(hope) {
    const since = /** @type {number} */ (this.#since);
    write(
      this.#text,
      `Nothing has come since ${secondOfDay(since)}: what was raised since then is missing here. ${hope}`,
    );
    write(this.#duration, formatDuration(Date.now() - since, 1));
    this.#show("down");
  }

  #showRecovery() {
    const wasShown = !this.#banner.hidden && this.#dismiss.hidden;
    const since = this.#since;
    clearInterval(this.#timer);
    this.#since = null;
    if (!wasShown || since === null) return;
    const made = this.#events === 1 ? "1 event" : `${this.#events || "no"} events`;
    write(
      this.#text,
      `The connection is back. From ${secondOfDay(since)} to ${secondOfDay(Date.now())}, ${made} came late.`,
    );
    write(this.#duration, "");
    this.#show("over");
  }

  /** @param {"down" | "over"} kind */
  #show(kind) {
    this.#onChange(kind === "down");
    this.#banner.dataset.kind = kind;
    this.#dismiss.hidden = kind === "down";
    this.#banner.hidden = false;
  }
}

/** The token is about to expire, and only the person can renew it. */
export class ExpiryBanner {
  #banner = byId("expiry");
  #text = byId("expiry-text");
  #expiresAt = Infinity;
  #isSignInOpen;
  #renews = () => false;
  #renewalProblem = "";

  /** @param {() => void} onSignIn  "Sign in again" was pressed. @param {() => boolean} isSignInOpen  Whether the form is open. */
  constructor(onSignIn, isSignInOpen) {
    this.#isSignInOpen = isSignInOpen;
    byId("expiry-sign-in").addEventListener("click", onSignIn);
    setInterval(() => this.#update(), REFRESH_MS);
  }

  /** @param {number} expiry  In s since the epoch. @param {() => boolean} renews  Whether it is renewed without the person. */
  watch(expiry, renews) {
    this.#expiresAt = expiry * 1000;
    this.#renews = renews;
    this.#update();
  }

  /** Why the token could not be renewed. @param {string | null} problem */
  explain(problem) {
    this.#renewalProblem = problem ? `Your sign-in could not be renewed. ${problem} ` : "";
    this.#update();
  }

  clear() {
    this.#expiresAt = Infinity;
    this.#renewalProblem = "";
    this.#update();
  }

  /**
   * Once the token has expired, the sign-in form says so if it is open. It does not open by itself while another tab's
   * token keeps the stream running.
   */
  #update() {
    const left = this.#expiresAt - serverNow();
    this.#banner.hidden =
      this.#renews() || left > WARN_MS || (left <= 0 && !this.#renewalProblem && this.#isSignInOpen());
    if (this.#banner.hidden) return;
    const verb = left > 0 ? "expires" : "expired";
    write(this.#text, `${this.#renewalProblem}Your token ${verb} at ${secondOfDay(this.#expiresAt)}.`);
  }
}
