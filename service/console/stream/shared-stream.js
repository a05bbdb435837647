/**
 * One stream for all tabs of a browser that show the same: a `StreamClient` whose connection is shared.
 *
 *     const stream = new SharedStream({ share: viewOf(token), url, after: page.head, token: () => token, onEvent: show });
 *     stream.start();
 *
 *     out --start()--> following --the lock is ours--> leading
 *      ^                 |    ^                          |
 *      |                 |    +----- lock stolen --------+
 *      +--- stop(), pause() --+--------------------------+
 *
 * Whoever holds a Web Lock leads and runs the stream (tab-leader.js); the others follow over a BroadcastChannel. The browser
 * gives the lock to the next tab when the one that leads closes, crashes, navigates away or is frozen, and that one goes
 * on from its own cursor.
 *
 * What holds, beyond what StreamClient promises:
 * - Each tab keeps a cursor of its own, and its `onEvent` sees strictly increasing `seq`, none missing from where the tab
 *   started, whoever leads. A tab listens to one leader only, from its answer to "hello, I have everything up to …" on;
 *   what is still under way from an earlier one is left out, so nothing can overtake.
 * - Tabs share only where `share`, `url`, `topics` and `minSeverity` are equal. `share` has to name the admin and what their
 *   token lets them see: `viewOf` of jwt-claims.js does. Share only after the server accepted the tab's token (as by loading a
 *   list with it): the channel asks for none.
 * - A leader that does not answer, because its page hangs, is replaced after `REPLY_TIMEOUT_MS`.
 * - Without locks or channels (an old browser, a page without TLS) each tab has its own stream.
 */

import { EventBuffer } from "./event-buffer.js";
import { keepAlive } from "./page-lifecycle.js";
import { Leader } from "./tab-leader.js";

/** @import { EventFrame, GapFrame } from "./wire-types.js" */
/** @import { Status, StreamOptions } from "./stream-client.js" */
/** @import { FollowerMessage, TabMessage, StreamCallback } from "./tab-messages.js" */

/** @typedef {Omit<StreamOptions, "acknowledge"> & {share: string}} SharedOptions */

const PROTOCOL = 1; // Of tab-messages.js: pages of two versions of this file do not talk to each other.
const REPLY_TIMEOUT_MS = 10_000;
const LEADER_CHECK_INTERVAL_MS = 20_000;
const TIMER_TOLERANCE_MS = 1_000;

export class SharedStream {
  #options;
  #name;
  #id = ""; // New each time that this tab joins: the leader may still be told that the last one has gone.
  /** @type {Status} */ #status = {
    state: "signed-out",
    reason: null,
    since: null,
    transport: "websocket",
    retryAt: null,
  };
  /** @type {number | null} */ #cursor;
  #buffer = new EventBuffer();

  /** Until this tab leaves. @type {AbortController | null} */ #membership = null;
  /** Until it leaves, or somebody takes the lock away. @type {AbortController | null} */ #candidacy = null;
  /** @type {BroadcastChannel | null} */ #channel = null;
  /** @type {Leader | null} */ #leader = null;
  /** The tab that leads, once it has answered. @type {string | null} */ #followedTab = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #endKeepAlive = () => {};
  #paused = false;

  /** @param {SharedOptions} options */
  constructor(options) {
    const { share, url, topics = null, minSeverity = null, after } = options;
    this.#options = options;
    this.#name = `tocsin-stream-${PROTOCOL} ${JSON.stringify([share, url, topics, minSeverity])}`;
    this.#cursor = typeof after === "number" ? after : null;
    if (this.#cursor !== null) this.#buffer.reset(this.#cursor);
  }

  get status() {
    return this.#status;
  }

  get cursor() {
    return this.#cursor;
  }

  /** Whether this tab has the stream: for what only one tab of a browser is to do. */
  get isLeader() {
    return this.#leader !== null;
  }

  /** Connects or joins, or goes on from the cursor after `signed-out`. Does nothing while the stream is under way. */
  start() {
    if (this.#status.state !== "signed-out") return;
    this.#setState("connecting");
    if (this.#leader) return this.#leader.start();
    if (this.#membership) return void this.#sendJoin({ start: true });
    this.#endKeepAlive = keepAlive(this);
    this.#join({ start: true });
  }

  /** Leaves; the other tabs go on. */
  stop() {
    this.#endKeepAlive();
    this.#paused = false;
    this.#leave();
    this.#setState("signed-out");
  }

  /** Leaves until `wake()`: the page is about to be frozen, and must not keep the others waiting. */
  pause() {
    if (!this.#membership) return;
    this.#paused = true;
    this.#leave();
    if (this.#status.state !== "signed-out") this.#setState("waiting");
  }

  /** For when the machine woke up or is online again: joins again, retries now, or finds out that the server is gone. */
  wake() {
    if (this.#paused) return this.#join({ start: false });
    this.#reportVisibility();
    if (this.#leader) this.#leader.wake();
    else this.#post({ type: "wake", from: this.#id });
  }

  /** Tells whoever leads that this tab has a fresh token. */
  renew() {
    if (this.#membership && !this.#leader) this.#sendJoin({ start: false });
  }

  /** @param {{start: boolean}} how */
  #join(how) {
    const member = new AbortController();
    this.#membership = member;
    this.#paused = false;
    this.#id = Math.random().toString(36).slice(2);
    if (!navigator.locks || typeof BroadcastChannel === "undefined") return this.#becomeLeader();
    document.addEventListener("visibilitychange", () => this.#reportVisibility(), { signal: member.signal });
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#onMessage(data);
    // By this lock the leader learns that this tab has closed, so it is taken before the first message.
    hold(this.#lockOf(this.#id), member.signal, { signal: member.signal }, () => this.#sendJoin(how)).catch(() => {});
    this.#requestLeadership({ steal: false });
  }

  #leave() {
    if (!this.#leader) this.#post({ type: "leave", from: this.#id });
    this.#followLeader(null);
    this.#channel?.close();
    this.#channel = null;
    this.#candidacy?.abort();
    this.#membership?.abort();
    this.#membership = null;
  }

  /** Waits for the lock, or takes it from a leader who does not answer. @param {{steal: boolean}} how */
  async #requestLeadership({ steal }) {
    this.#candidacy?.abort();
    this.#candidacy = new AbortController();
    const { signal } = this.#candidacy;
    try {
      await hold(this.#name, signal, steal ? { steal } : { signal }, () => this.#becomeLeader());
    } catch {
      if (signal.aborted) return;
      const wasLeading = this.#leader !== null;
      if (!wasLeading) return this.#becomeLeader(); // There are no locks here after all, as where storage is blocked.
      this.#followLeader(null);
      this.#sendJoin({ start: false });
      this.#requestLeadership({ steal: false });
    }
  }

  #becomeLeader() {
    this.#followLeader(null);
    const { topics, url, minSeverity, after, token, onDuplicate } = this.#options;
    const from = this.#id;
    this.#leader = new Leader(
      { topics, url, minSeverity, after, token, onDuplicate },
      {
        status: this.#status,
        cursor: this.#cursor,
        buffer: this.#buffer,
        visibility: () => ({ visible: isVisible(), shown: this.#cursor ?? 0 }),
        dispatch: (callback) => this.#dispatch(callback),
        post: (message) => this.#post({ ...message, from }),
        onTabClosed: (tab, onClosed) => {
          const { signal } = /** @type {AbortController} */ (this.#candidacy);
          navigator.locks.request(this.#lockOf(tab), { signal }, onClosed).catch(() => {});
        },
      },
    );
    this.#leader.begin();
  }

  /** Listens to this tab only, and leads no longer. @param {string | null} leader */
  #followLeader(leader) {
    this.#followedTab = leader;
    clearTimeout(this.#timer);
    if (!this.#leader) return;
    this.#leader.stop();
    this.#leader = null;
    // After a rewind the memory may end before our cursor: what lies between was passed on, and is not kept.
    if (this.#cursor !== null && this.#buffer.head < this.#cursor) this.#buffer.reset(this.#cursor);
  }

  /** Joins whoever leads, or asks whether it is still there. @param {{start: boolean}} how */
  async #sendJoin({ start }) {
    const member = this.#membership;
    this.#expectReply();
    const token = await this.#ownToken();
    if (!member || member !== this.#membership) return;
    this.#post({ type: "join", from: this.#id, cursor: this.#cursor, visible: isVisible(), token, start });
  }

  /** The token that this tab can give; null: another tab's has to do. */
  async #ownToken() {
    try {
      return await this.#options.token(null);
    } catch {
      return null;
    }
  }

  /** Takes the lead where nobody answers in time, unless it was we who slept. */
  #expectReply() {
    clearTimeout(this.#timer);
    const due = Date.now() + REPLY_TIMEOUT_MS;
    this.#timer = setTimeout(() => {
      if (this.#leader || !this.#channel) return;
      if (Date.now() - due < TIMER_TOLERANCE_MS) this.#requestLeadership({ steal: true });
      else this.#sendJoin({ start: false });
    }, REPLY_TIMEOUT_MS);
  }

  /** Asks now and then whether the leader is still there: it may be silent because nothing happens. */
  #checkLeaderLater() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#sendJoin({ start: false }), LEADER_CHECK_INTERVAL_MS);
  }

  /** @param {TabMessage} message */
  #onMessage(message) {
    switch (message.type) {
      case "leader":
        this.#followedTab = null;
        return void (this.#leader ? undefined : this.#sendJoin({ start: false }));
      case "joined":
        if (message.to !== this.#id || this.#leader) return;
        this.#followedTab = message.from;
        return this.#checkLeaderLater();
      case "stream": {
        const isOurs = message.to === null || message.to === this.#id;
        if (!isOurs || message.from !== this.#followedTab) return;
        return this.#dispatch(message.callback);
      }
      default:
        return this.#leader?.onMessage(message);
    }
  }

  /** @param {StreamCallback} callback */
  #dispatch({ call, value }) {
    const options = this.#options;
    switch (call) {
      case "onEvent":
        return this.#onEvent(value);
      case "onCursor":
        return this.#advance(value);
      case "onGap":
        return this.#onGap(value.frame, value.cursor);
      case "onState":
        this.#status = value;
        return options.onState?.(value);
      case "onWelcome":
        return options.onWelcome?.(value);
      case "onPresence":
        return options.onPresence?.(value);
      case "onError":
        return options.onError?.(value);
    }
  }

  /** What we have comes again when another tab had to go back. @param {EventFrame} event */
  #onEvent(event) {
    if (event.seq <= (this.#cursor ?? 0)) return;
    this.#buffer.add(event);
    this.#options.onEvent?.(event);
    this.#advance(event.seq);
    if (!this.#leader && isVisible()) this.#reportVisibility();
  }

  /** @param {number} seq */
  #advance(seq) {
    if (this.#cursor !== null && seq <= this.#cursor) return;
    this.#cursor = seq;
    if (!this.#leader) this.#buffer.advance(seq);
    this.#options.onCursor?.(seq);
  }

  /** @param {GapFrame} frame @param {number} cursor */
  #onGap(frame, cursor) {
    if (frame.reason === "purged" && frame.to <= (this.#cursor ?? 0)) return;
    this.#cursor = cursor;
    if (!this.#leader) this.#buffer.reset(cursor);
    this.#options.onGap?.(frame);
  }

  /** Tells what this tab has shown, and whether anybody can see it. */
  #reportVisibility() {
    if (this.#leader) this.#leader.acknowledge();
    else this.#post({ type: "visibility", from: this.#id, visible: isVisible(), shown: this.#cursor ?? 0 });
  }

  /** @param {TabMessage | FollowerMessage} message */
  #post(message) {
    this.#channel?.postMessage(message);
  }

  /** @param {string} tab */
  #lockOf(tab) {
    return `${this.#name} ${tab}`;
  }

  /** @param {Status["state"]} state */
  #setState(state) {
    this.#status = { ...this.#status, state, reason: null, retryAt: null };
    this.#options.onState?.(this.#status);
  }
}

/**
 * Holds a lock from when it is granted until `signal`.
 * @param {string} name
 * @param {AbortSignal} signal
 * @param {LockOptions} options
 * @param {() => void} granted
 */
async function hold(name, signal, options, granted) {
  await navigator.locks.request(name, options, async () => {
    if (signal.aborted) return;
    granted();
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  });
}

function isVisible() {
  return !document.hidden;
}
