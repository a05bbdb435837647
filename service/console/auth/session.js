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
 * @typedef {object} View
 * @property {(status: Status) => void} onStatus
 * @property {(page: AlertPage) => void} onPage
 * @property {(frame: WelcomeFrame) => void} onWelcome
 * @property {(frame: EventFrame) => void} onEvent
 * @property {(frame: GapFrame) => void} onGap
 * @property {(error: ApiError) => void} onStale     The list could not be loaded again after a gap.
 * @property {() => void} onFresh                    After that it was.
 * @property {(seq: number) => void} onCursor
 * @property {(list: PresenceList) => void} onPresent
 * @property {(frame: PresenceFrame) => boolean} onPresence  False: the names do not add up, load them again.
 */

const PRESENCE_DELAY_MS = 1_000;

export class Session {
  #token;
  #renew;
  #view;
  /** The token that the stream was given last. @type {string | null} */ #given = null;
  /** The one that the server turned down last, and why. @type {{token: string, reason: string} | null} */ #refused =
    null;
  /** @type {SharedStream | null} */ #client = null;
  #over = false;
  #failures = 0;
  /** @type {number | null} */ #failingSince = null;
  /** @type {number | undefined} */ #retryTimer;
  /** @type {number | undefined} */ #presenceTimer;
  /** Loads of the list after a gap that failed, in a row. */ #staleFor = 0;
  #reloads = 0; // Numbers them: the answer to an earlier one is late.
  /** @type {number | undefined} */ #reloadTimer;

  /**
   * @param {string} subject  Who the token says it is; the server checks.
   * @param {string} token
   * @param {View} view
   * @param {() => Promise<string | null>} renew  A fresh token where the old one was refused; null: a person has to bring it.
   *   It throws where there may be one later.
   */
  constructor(subject, token, view, renew) {
    this.subject = subject;
    this.#token = token;
    this.#view = view;
    this.#renew = renew;
  }

  /** Whether a token lets the same admin see the same. @param {string} token */
  sees(token) {
    return viewOf(token) === viewOf(this.#token);
  }

  /** Whether this session can go on with a token. @param {string} token */
  continuesWith(token) {
    return this.started && this.sees(token);
  }

  /** Whether there is a cursor to go on from. */
  get started() {
    return this.#client !== null;
  }

  /** Whether this tab is the one of several that has the stream. */
  get leads() {
    return this.#client?.leads ?? false;
  }

  /** Whether the token says that it has a scope; only the server knows. @param {string} scope */
  may(scope) {
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
    this.#report({ state: "connecting" });
    try {
      const page = await fetchAlerts(this.#token);
      if (this.#over) return;
      this.#view.onPage(page);
      this.#openStream(page.head);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (!this.#over) this.#failed(error);
    }
  }

  /** Goes on with a fresh token of the same admin. @param {string} token */
  resume(token) {
    this.#use(token);
    if (this.#client) this.#client.start();
    else this.begin();
  }

  /**
   * Has a fresh token of the same admin, before the old one expires: the stream takes it when it has to.
   * @param {string} token
   */
  renewed(token) {
    this.#use(token);
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
    this.#over = true;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#presenceTimer);
    clearTimeout(this.#reloadTimer);
    this.#client?.stop();
  }

  /** @param {ApiError} error */
  #failed(error) {
    if (!error.passing) return this.#report({ state: "signed-out", reason: error.reason });
    this.#failures += 1;
    this.#failingSince ??= Date.now();
    const delay = Math.max(backoff(this.#failures), error.retryAfter);
    this.#retryTimer = setTimeout(() => this.begin(), delay);
    this.#report({ state: "waiting", reason: error.reason, retryAt: Date.now() + delay });
  }

  /** @param {Partial<Status> & Pick<Status, "state">} status */
  #report(status) {
    this.#view.onStatus({ reason: null, since: this.#failingSince, way: "socket", retryAt: null, ...status });
  }

  /** @param {number} head */
  #openStream(head) {
    this.#client = new SharedStream({
      share: viewOf(this.#token),
      url: new URL("/v1/ws", location.origin.replace("http", "ws")).href,
      after: head,
      token: (refused) => this.#tokenFor(refused),
      onState: (status) => {
        if (this.#over) return;
        this.#view.onStatus(status);
        if (status.state === "live") this.#loadPresence();
      },
      onWelcome: this.#view.onWelcome,
      onEvent: this.#view.onEvent,
      onCursor: this.#view.onCursor,
      onGap: (frame) => this.#closeGap(frame),
      onPresence: (frame) => {
        if (this.#view.onPresence(frame)) return;
        this.#presenceTimer ??= setTimeout(() => this.#loadPresence(), PRESENCE_DELAY_MS);
      },
      onDuplicate: (seq) => console.warn(`Event ${seq} came again or out of order; it was left out.`),
      onError: ({ code, detail }) => console.warn(`The server reports ${code}: ${detail}`),
    });
    this.#client.start();
  }

  /** @param {string} token */
  #use(token) {
    this.#token = token;
    if (this.#staleFor > 0) this.#reload(); // The last one may have been why the list could not be loaded.
  }

  /**
   * A token that was refused is given again only where there is no fresh one: a person has to bring that, see resume().
   * It was perhaps another tab's that the server refused.
   * @param {string | null} refused
   */
  async #tokenFor(refused) {
    if (refused && this.#given) this.#refused = { token: this.#given, reason: refused };
    if (this.#token === this.#refused?.token && mayRenew(this.#refused.reason)) {
      this.#token = (await this.#renew()) ?? this.#token;
    }
    this.#given = this.#token;
    return this.#given;
  }

  /** The events are gone, but what they led to can be read. @param {GapFrame} frame */
  #closeGap(frame) {
    this.#view.onGap(frame);
    this.#reload();
  }

  /** Tries until the list is there: without it, what came before the gap is missing. */
  async #reload() {
    clearTimeout(this.#reloadTimer);
    this.#reloadTimer = undefined;
    this.#reloads += 1;
    const attempt = this.#reloads;
    const isLate = () => this.#over || attempt !== this.#reloads;
    try {
      const page = await fetchAlerts(this.#token);
      if (isLate()) return;
      this.#view.onPage(page);
      if (this.#staleFor > 0) this.#view.onFresh();
      this.#staleFor = 0;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (isLate()) return;
      this.#staleFor += 1;
      this.#view.onStale(error);
      const delay = Math.max(backoff(this.#staleFor), error.retryAfter);
      if (error.passing) this.#reloadTimer = setTimeout(() => this.#reload(), delay);
    }
  }

  async #loadPresence() {
    clearTimeout(this.#presenceTimer);
    this.#presenceTimer = undefined;
    const list = await fetchPresence(this.#token).catch(() => null); // Nice to know; the feed does not wait for it.
    if (list && !this.#over) this.#view.onPresent(list);
  }
}
