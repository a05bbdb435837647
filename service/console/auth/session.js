/**
 * The session of a signed-in admin: loads the list of alerts, then follows the stream from that position on.
 *
 *     begin() -> GET /v1/alerts -> the stream after its `cursor` -> (token expired) -> resume(token) -> on from the cursor
 *
 * After a gap or a reset the list is loaded again, and the stream goes on. An answer that was on its way when the history
 * of the log changed may be of the lost one: a GET is repeated, and what became of a POST is unknown.
 *
 * The token is kept in memory only, in this tab and in those that share the stream. This module uses no DOM.
 */

import { backoff, mayRenew } from "../stream/close-policy.js";
import { SharedStream } from "../stream/shared-stream.js";
import { SIGNED_OUT } from "../stream/stream-client.js";
import { viewOf } from "./jwt-claims.js";
import { ApiError, fetchAlerts, fetchMe, fetchNames, fetchPresence, get, post } from "./rest-api.js";

/** @import { AlertPage, EventFrame, GapFrame, Me, PresenceFrame, PresenceOut, ResetFrame, WelcomeFrame } from "../stream/wire-types.js" */
/** @import { Status } from "../stream/stream-client.js" */

/**
 * @typedef {object} SessionListener
 * @property {(status: Status) => void} onStatus
 * @property {(me: Me) => void} onMe                     Before the list, and once the stream is live with another token.
 * @property {(page: AlertPage) => void} onPage         The session begins with this list.
 * @property {(frame: WelcomeFrame) => void} onWelcome
 * @property {(frame: EventFrame) => void} onEvent
 * @property {(frame: ResetFrame) => void} onReset       Part of what was shown is void; the list is loaded again.
 * @property {(error: ApiError) => void} onReloadFailed  The list could not be loaded again after a gap or a reset.
 * @property {(page: AlertPage, why: GapFrame | ResetFrame) => void} onReloaded
 * @property {(cursor: string) => void} onCursor
 * @property {(list: PresenceOut) => void} onPresenceList
 * @property {(frame: PresenceFrame) => boolean} onPresence  Returns false if the list has to be loaded again.
 */

const PRESENCE_DELAY_MS = 1_000;

export class Session {
  #token;
  /** @type {Me | null} */ #me = null;
  /** The token that it was read from. @type {string | null} */ #meOf = null;
  #renewToken;
  #listener;
  /** The token that the stream was given last. @type {string | null} */ #lastToken = null;
  /** The token that the server refused last, and why. @type {{token: string, reason: string} | null} */ #refusedToken =
    null;
  /** @type {SharedStream | null} */ #client = null;
  #isEnded = false;
  #failures = 0;
  /** @type {number | null} */ #failingSince = null;
  /** @type {number | undefined} */ #retryTimer;
  /** @type {number | undefined} */ #presenceTimer;
  /** What came since the list was asked for: the list may be older. @type {PresenceFrame[] | null} */ #presenceSince =
    null;
  #resets = 0;
  /** Why the list is not up to date. @type {GapFrame | ResetFrame | null} */ #staleBecause = null;
  #failedReloads = 0; // In a row.
  #reloadAttempt = 0; // The response to an earlier one is ignored.
  /** @type {number | undefined} */ #reloadTimer;

  /**
   * @param {string} subject  Who the token says it is; the server checks.
   * @param {string} token
   * @param {SessionListener} listener
   * @param {() => Promise<string | null>} renew  Returns a fresh token after the old one was refused; null: the person
   *   has to sign in again. Throws if a retry may succeed.
   */
  constructor(subject, token, listener, renew) {
    this.subject = subject;
    this.#token = token;
    this.#listener = listener;
    this.#renewToken = renew;
  }

  /** Whether a token is for the same admin with the same topics. @param {string} token */
  hasSameView(token) {
    return viewOf(token) === viewOf(this.#token);
  }

  /** Whether this session can continue with a token. @param {string} token */
  canContinueWith(token) {
    return this.started && this.hasSameView(token);
  }

  /** Whether the stream was opened, so that there is a cursor to continue from. */
  get started() {
    return this.#client !== null;
  }

  /** Whether this tab runs the stream for all tabs. */
  get isLeader() {
    return this.#client?.isLeader ?? false;
  }

  /** Whether the token has a scope. @param {string} scope */
  hasScope(scope) {
    return this.#me?.scopes.includes(scope) ?? false;
  }

  /** What subjects are shown by. @param {string[]} subjects */
  names(subjects) {
    return fetchNames(subjects, this.#token);
  }

  /** @param {string} path @returns {Promise<any>} */
  async get(path) {
    const resets = this.#resets;
    const answer = await get(path, this.#token);
    return resets === this.#resets ? answer : this.get(path);
  }

  /** @param {string} path @param {Parameters<typeof post>[2]} [content] */
  async post(path, content) {
    const resets = this.#resets;
    const answer = await post(path, this.#token, content);
    if (resets !== this.#resets) throw new ApiError("outcome_unknown", 503, 0);
    return answer;
  }

  /** Reports alerts that the admin saw. @param {string[]} alerts  Their ids. */
  seen(alerts) {
    this.#client?.seen(alerts);
  }

  async begin() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = undefined;
    this.#reportStatus({ state: "connecting" });
    try {
      const page = await fetchAlerts(this.#token);
      await this.#loadMe();
      if (this.#isEnded) return;
      this.#listener.onPage(page);
      this.#openStream(page.cursor);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (!this.#isEnded) this.#onLoadFailed(error);
    }
  }

  /** Continues with a fresh token after the stream ended. @param {string} token */
  resume(token) {
    this.#setToken(token);
    if (this.#client) this.#client.start();
    else this.begin();
  }

  /** Uses a fresh token from the next connection on. @param {string} token */
  updateToken(token) {
    this.#setToken(token);
    this.#client?.renew();
  }

  /** The person asked to retry now. */
  retry() {
    if (!this.#retryTimer) this.#client?.wake();
    this.wake();
  }

  /** The machine woke up, or is online: retries the list now. The stream wakes itself (stream/page-lifecycle.js). */
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
    this.#listener.onStatus({ ...SIGNED_OUT, since: this.#failingSince, ...status });
  }

  /** @param {string} after */
  #openStream(after) {
    this.#client = new SharedStream({
      share: viewOf(this.#token),
      url: new URL("v1/ws", location.href.replace("http", "ws")).href,
      after,
      consumer: "console", // It keeps its cursor itself: what it acknowledges moves no other program's resume point.
      token: (refused) => this.#tokenFor(refused),
      onState: (status) => {
        if (this.#isEnded) return;
        this.#listener.onStatus(status);
        if (status.state !== "live") return;
        this.#loadPresence();
        if (this.#meOf !== this.#token) this.#loadMe().catch(() => {}); // What was known stays: the server decides.
      },
      onWelcome: this.#listener.onWelcome,
      onEvent: this.#listener.onEvent,
      onCursor: this.#listener.onCursor,
      onGap: (frame) => this.#recover(frame),
      onReset: (frame) => {
        this.#resets += 1;
        this.#listener.onReset(frame);
        this.#recover(frame);
      },
      onPresence: (frame) => {
        this.#presenceSince?.push(frame);
        this.#applyPresence(frame);
      },
      onDuplicate: (seq) => console.warn(`Event ${seq} came again or out of order; it was left out.`),
      onError: ({ code, detail }) => console.warn(`The server reports ${code}: ${detail}`),
    });
    this.#client.start();
  }

  /** @param {string} token */
  #setToken(token) {
    this.#token = token;
    if (this.#failedReloads > 0) this.#reload(); // The last token may have been why the list could not be loaded.
  }

  async #loadMe() {
    const token = this.#token;
    const me = await fetchMe(token);
    if (this.#isEnded) return;
    this.#me = me;
    this.#meOf = token;
    this.#listener.onMe(me);
  }

  /**
   * The token for the stream. A refused token is returned again if there is no fresh one: the refusal may have been of
   * another tab's token, and otherwise the person has to bring one, see resume().
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

  /** Events cannot be had, or were lost, but the current alerts can be loaded. @param {GapFrame | ResetFrame} frame */
  #recover(frame) {
    if (this.#staleBecause?.type !== "reset") this.#staleBecause = frame;
    this.#reload();
  }

  /** Loads the list until it succeeds. */
  async #reload() {
    clearTimeout(this.#reloadTimer);
    this.#reloadTimer = undefined;
    this.#reloadAttempt += 1;
    const attempt = this.#reloadAttempt;
    const isLate = () => this.#isEnded || attempt !== this.#reloadAttempt;
    try {
      const page = await fetchAlerts(this.#token);
      if (isLate()) return;
      this.#failedReloads = 0;
      this.#listener.onReloaded(page, /** @type {GapFrame | ResetFrame} */ (this.#staleBecause));
      this.#staleBecause = null;
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
    const since = /** @type {PresenceFrame[]} */ ([]);
    this.#presenceSince = since;
    const list = await fetchPresence(this.#token).catch(() => null); // Optional.
    if (this.#presenceSince === since) this.#presenceSince = null;
    if (!list || this.#isEnded) return;
    this.#listener.onPresenceList(list);
    for (const frame of since) this.#applyPresence(frame);
  }

  /** @param {PresenceFrame} frame */
  #applyPresence(frame) {
    if (this.#listener.onPresence(frame)) return;
    this.#presenceTimer ??= setTimeout(() => this.#loadPresence(), PRESENCE_DELAY_MS);
  }
}
