/**
 * What one signed-in admin has going on: the list as it is now, then the stream from that position on.
 *
 *     begin() -> GET /v1/alerts -> the stream after its `head` -> (token gone) -> resume(token) -> on from the cursor
 *
 * It has no DOM. The token lives in this object's memory, and in that of the tabs that share the stream, and nowhere else.
 */

import { backoff, mayRenew } from "../stream/close-policy.js";
import { SharedStream } from "../stream/shared-stream.js";
import { claimsOf, viewOf } from "./jwt-claims.js";
import { ApiError, fetchAlerts, fetchPresence, get, post } from "./rest-api.js";

/** @import { AlertPage, EventFrame, GapFrame, PresenceFrame, PresenceList, WelcomeFrame } from "../stream/wire-types.js" */
/** @import { Status } from "../stream/stream-client.js" */

/**
 * @typedef {object} SessionListener
 * @property {(status: Status) => void} onStatus
 * @property {(page: AlertPage) => void} onPage
 * @property {(frame: WelcomeFrame) => void} onWelcome
 * @property {(frame: EventFrame) => void} onEvent
 * @property {(frame: GapFrame) => void} onGap
 * @property {(error: ApiError) => void} onReloadFailed     The list could not be loaded again after a gap.
 * @property {() => void} onReloaded                    After that it was.
 * @property {(seq: number) => void} onCursor
 * @property {(list: PresenceList) => void} onPresenceList
 * @property {(frame: PresenceFrame) => boolean} onPresence  False: the names do not add up, load them again.
 */

const PRESENCE_DELAY_MS = 1_000;

export class Session {
  #token;
  #renewToken;
  #listener;
  /** The token that the stream was given last. @type {string | null} */ #lastToken = null;
  /** The one that the server turned down last, and why. @type {{token: string, reason: string} | null} */ #refusedToken =
    null;
  /** @type {SharedStream | null} */ #client = null;
  #isEnded = false;
  #failures = 0;
  /** @type {number | null} */ #failingSince = null;
  /** @type {number | undefined} */ #retryTimer;
  /** @type {number | undefined} */ #presenceTimer;
  /** Loads of the list after a gap that failed, in a row. */ #failedReloads = 0;
  #reloadAttempt = 0; // Numbers them: the answer to an earlier one is late.
  /** @type {number | undefined} */ #reloadTimer;

  /**
   * @param {string} subject  Who the token says it is; the server checks.
   * @param {string} token
   * @param {SessionListener} listener
   * @param {() => Promise<string | null>} renew  A fresh token where the old one was refused; null: a person has to bring it.
   *   It throws where there may be one later.
   */
  constructor(subject, token, listener, renew) {
    this.subject = subject;
    this.#token = token;
    this.#listener = listener;
    this.#renewToken = renew;
  }

  /** Whether a token lets the same admin see the same. @param {string} token */
  hasSameView(token) {
    return viewOf(token) === viewOf(this.#token);
  }

  /** Whether this session can go on with a token. @param {string} token */
  canContinueWith(token) {
    return this.started && this.hasSameView(token);
  }

  /** Whether there is a cursor to go on from. */
  get started() {
    return this.#client !== null;
  }

  /** Whether this tab is the one of several that has the stream. */
  get isLeader() {
    return this.#client?.isLeader ?? false;
  }

  /** Whether the token says that it has a scope; only the server knows. @param {string} scope */
  hasScope(scope) {
    return String(claimsOf(this.#token)?.scope ?? "")
      .split(" ")
      .includes(scope);
  }

  /** @param {string} path */
  get(path) {
    return get(path, this.#token);
  }

  /** @param {string} path @param {Parameters<typeof post>[2]} [content] */
  post(path, content) {
    return post(path, this.#token, content);
  }

  async begin() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = undefined;
    this.#reportStatus({ state: "connecting" });
    try {
      const page = await fetchAlerts(this.#token);
      if (this.#isEnded) return;
      this.#listener.onPage(page);
      this.#openStream(page.head);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (!this.#isEnded) this.#onLoadFailed(error);
    }
  }

  /** Goes on with a fresh token of the same admin. @param {string} token */
  resume(token) {
    this.#setToken(token);
    if (this.#client) this.#client.start();
    else this.begin();
  }

  /**
   * Has a fresh token of the same admin, before the old one expires: the stream takes it when it has to.
   * @param {string} token
   */
  updateToken(token) {
    this.#setToken(token);
    this.#client?.renew();
  }

  /** The person says that now is a good time. */
  retry() {
    if (!this.#retryTimer) this.#client?.wake();
    this.wake();
  }

  /** The machine woke up, or is online: asks now for the list that it waits for. The stream wakes itself (lifecycle.js). */
  wake() {
    if (this.#reloadTimer) this.#reload();
    if (this.#retryTimer) this.begin();
  }

  end() {
    this.#isEnded = true;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#presenceTimer);
    clearTimeout(this.#reloadTimer);
    this.#client?.stop();
  }

  /** @param {ApiError} error */
  #onLoadFailed(error) {
    if (!error.isTransient) return this.#reportStatus({ state: "signed-out", reason: error.reason });
    this.#failures += 1;
    this.#failingSince ??= Date.now();
    const delay = Math.max(backoff(this.#failures), error.retryAfter);
    this.#retryTimer = setTimeout(() => this.begin(), delay);
    this.#reportStatus({ state: "waiting", reason: error.reason, retryAt: Date.now() + delay });
  }

  /** @param {Partial<Status> & Pick<Status, "state">} status */
  #reportStatus(status) {
    this.#listener.onStatus({
      reason: null,
      since: this.#failingSince,
      transport: "websocket",
      retryAt: null,
      ...status,
    });
  }

  /** @param {number} head */
  #openStream(head) {
    this.#client = new SharedStream({
      share: viewOf(this.#token),
      url: new URL("/v1/ws", location.origin.replace("http", "ws")).href,
      after: head,
      token: (refused) => this.#tokenFor(refused),
      onState: (status) => {
        if (this.#isEnded) return;
        this.#listener.onStatus(status);
        if (status.state === "live") this.#loadPresence();
      },
      onWelcome: this.#listener.onWelcome,
      onEvent: this.#listener.onEvent,
      onCursor: this.#listener.onCursor,
      onGap: (frame) => this.#recoverFromGap(frame),
      onPresence: (frame) => {
        if (this.#listener.onPresence(frame)) return;
        this.#presenceTimer ??= setTimeout(() => this.#loadPresence(), PRESENCE_DELAY_MS);
      },
      onDuplicate: (seq) => console.warn(`Event ${seq} came again or out of order; it was left out.`),
      onError: ({ code, detail }) => console.warn(`The server reports ${code}: ${detail}`),
    });
    this.#client.start();
  }

  /** @param {string} token */
  #setToken(token) {
    this.#token = token;
    if (this.#failedReloads > 0) this.#reload(); // The last one may have been why the list could not be loaded.
  }

  /**
   * A token that was refused is given again only where there is no fresh one: a person has to bring that, see resume().
   * It was perhaps another tab's that the server refused.
   * @param {string | null} refused
   */
  async #tokenFor(refused) {
    if (refused && this.#lastToken) this.#refusedToken = { token: this.#lastToken, reason: refused };
    if (this.#token === this.#refusedToken?.token && mayRenew(this.#refusedToken.reason)) {
      this.#token = (await this.#renewToken()) ?? this.#token;
    }
    this.#lastToken = this.#token;
    return this.#lastToken;
  }

  /** The events are gone, but what they led to can be read. @param {GapFrame} frame */
  #recoverFromGap(frame) {
    this.#listener.onGap(frame);
    this.#reload();
  }

  /** Tries until the list is there: without it, what came before the gap is missing. */
  async #reload() {
    clearTimeout(this.#reloadTimer);
    this.#reloadTimer = undefined;
    this.#reloadAttempt += 1;
    const attempt = this.#reloadAttempt;
    const isLate = () => this.#isEnded || attempt !== this.#reloadAttempt;
    try {
      const page = await fetchAlerts(this.#token);
      if (isLate()) return;
      this.#listener.onPage(page);
      if (this.#failedReloads > 0) this.#listener.onReloaded();
      this.#failedReloads = 0;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (isLate()) return;
      this.#failedReloads += 1;
      this.#listener.onReloadFailed(error);
      const delay = Math.max(backoff(this.#failedReloads), error.retryAfter);
      if (error.isTransient) this.#reloadTimer = setTimeout(() => this.#reload(), delay);
    }
  }

  async #loadPresence() {
    clearTimeout(this.#presenceTimer);
    this.#presenceTimer = undefined;
    const list = await fetchPresence(this.#token).catch(() => null); // Nice to know; the feed does not wait for it.
    if (list && !this.#isEnded) this.#listener.onPresenceList(list);
  }
}
