/**
 * One stream for all tabs of a browser with the same view: a `StreamClient` whose connection is shared.
 *
 *     const stream = new SharedStream({ share: viewOf(token), url, after: page.cursor, token: () => token, onEvent: show });
 *     stream.start();
 *
 *                      alone
 *                       |  ^ the leader does not know our cursor
 *                joined v  |
 *     out --start()--> following --the lock is ours--> leading
 *      ^                 |    ^                          |
 *      |                 |    +----- lock stolen --------+
 *      +--- stop(), pause() --+--------------------------+
 *
 * The tab that holds a Web Lock is the leader and runs the stream (tab-leader.js); the others follow over a
 * BroadcastChannel. When the leader closes, crashes, navigates away or is frozen, the browser gives the lock to another
 * tab, which continues from its own cursor.
 *
 * Invariants, beyond those of StreamClient:
 * - Each tab has its own cursor, and its `onEvent` is called with strictly increasing `seq` between resets, none missing
 *   since the tab started, whichever tab leads. A tab accepts messages of one leader only, from its `joined` on; late messages of an
 *   earlier leader are ignored, so that nothing arrives out of order.
 * - A tab that cannot follow, because it is far behind or because the history of the log may have changed since it was
 *   there (it was frozen), has a stream of its own until it can: the server knows what its cursor is.
 * - Tabs share only where `share`, `url`, `topics`, `minSeverity` and `consumer` are equal. `share` has to name the admin and what their
 *   token lets them see: `viewOf` of jwt-claims.js does. Share only after the server accepted the tab's token (as by loading a
 *   list with it): the channel asks for none.
 * - What somebody saw in one tab, all tabs keep until the leader has reported it on a connection that lived on after, and they
 *   hand it to the next leader: what was seen during an outage outlives the tab that leads. Repetitions have no effect.
 * - A leader that does not answer, because its page hangs, is replaced after `REPLY_TIMEOUT_MS`.
 * - Without locks or channels (an old browser, a page without TLS), each tab has its own stream.
 */

import { furthest, seqOf } from "./cursor.js";
import { EventBuffer } from "./event-buffer.js";
import { keepAlive } from "./page-lifecycle.js";
import { SIGNED_OUT, StreamClient, startOf } from "./stream-client.js";
import { Leader, SETTLED_MS } from "./tab-leader.js";

/** @import { EventFrame, GapFrame, ResetFrame } from "./wire-types.js" */
/** @import { Status, StreamOptions } from "./stream-client.js" */
/** @import { FollowerMessage, OwnStream, StreamCallback, TabMessage } from "./tab-messages.js" */

/** @typedef {Omit<StreamOptions, "acknowledge"> & {share: string}} SharedOptions */

const PROTOCOL = 2; // Of tab-messages.js: pages of two versions of this file do not talk to each other.
const REPLY_TIMEOUT_MS = 10_000;
const LEADER_CHECK_INTERVAL_MS = 20_000;
const TIMER_TOLERANCE_MS = 1_000;

export class SharedStream {
  #options;
  #name;
  #id = ""; // New for each join: the leader may yet learn that the last one has left.
  /** @type {Status} */ #status = SIGNED_OUT;
  /** @type {string | null} */ #cursor;
  #buffer = new EventBuffer();

  /** Until this tab leaves. @type {AbortController | null} */ #membership = null;
  /** Until this tab leaves, or another one steals the lock. @type {AbortController | null} */ #candidacy = null;
  /** @type {BroadcastChannel | null} */ #channel = null;
  /** @type {Leader | null} */ #leader = null;
  /** The leader, once it has replied. @type {string | null} */ #followedTab = null;
  /** This tab's own stream, while it cannot follow. @type {StreamClient | null} */ #own = null;
  #liveSince = Infinity; // Of that stream.
  #isJoining = false; // The leader has not replied yet.
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  /** Alerts that were seen in any of the tabs and may not be reported yet. @type {Set<string>} */ #seen = new Set();
  #endKeepAlive = () => {};
  #paused = false;

  /** @param {SharedOptions} options */
  constructor(options) {
    const { share, url, topics = null, minSeverity = null, consumer = null, after } = options;
    this.#options = options;
    this.#name = `tocsin-stream-${PROTOCOL} ${JSON.stringify([share, url, topics, minSeverity, consumer])}`;
    this.#cursor = startOf(after);
    if (this.#cursor !== null) this.#buffer.reset(this.#cursor);
  }

  get status() {
    return this.#status;
  }

  get cursor() {
    return this.#cursor;
  }

  /** Whether this tab runs the stream: for what only one tab of a browser should do. */
  get isLeader() {
    return this.#leader !== null;
  }

  /** Connects or joins, or goes on from the cursor after `signed-out`; does nothing in any other state. */
  start() {
    if (this.#status.state !== "signed-out") return;
    this.#setState("connecting");
    if (this.#leader) return this.#leader.start();
    this.#own?.start();
    if (this.#membership) return void this.#sendJoin({ start: true });
    this.#endKeepAlive = keepAlive(this);
    this.#join({ start: true });
  }

  /** Leaves; the other tabs continue. */
  stop() {
    this.#endKeepAlive();
    this.#paused = false;
    this.#leave();
    this.#setState("signed-out");
  }

  /** Leaves until `wake()`: the page is about to be frozen, and the other tabs must not wait for it. */
  pause() {
    if (!this.#membership) return;
    this.#paused = true;
    this.#leave();
    if (this.#status.state !== "signed-out") this.#setState("waiting");
  }

  /** The machine woke up or is online again: joins again, retries now, or checks whether the server is silent. */
  wake() {
    if (this.#paused) return this.#join({ start: false });
    this.#reportVisibility();
    this.#own?.wake();
    if (this.#leader) this.#leader.wake();
    else this.#post({ type: "wake", from: this.#id });
  }

  /** Reports alerts that somebody saw in this tab: each was in view for a second. @param {Iterable<string>} alerts  Their ids. */
  seen(alerts) {
    const ids = [...alerts];
    this.#keepSeen(ids);
    this.#reportSeen(ids);
  }

  /** Sends the leader this tab's fresh token. */
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
    this.#reportSeen();
    if (!this.#leader) this.#post({ type: "leave", from: this.#id });
    this.#followLeader(null);
    this.#endOwnStream();
    this.#channel?.close();
    this.#channel = null;
    this.#candidacy?.abort();
    this.#membership?.abort();
    this.#membership = null;
  }

  /** Waits for the lock, or steals it from a leader that does not reply. @param {{steal: boolean}} how */
  async #requestLeadership({ steal }) {
    this.#candidacy?.abort();
    this.#candidacy = new AbortController();
    const { signal } = this.#candidacy;
    try {
      await hold(this.#name, signal, steal ? { steal } : { signal }, () => this.#becomeLeader());
    } catch {
      if (signal.aborted) return;
      const wasLeading = this.#leader !== null;
      if (!wasLeading) return this.#becomeLeader(); // Locks do not work, for example because storage is blocked.
      this.#followLeader(null);
      this.#sendJoin({ start: false });
      this.#requestLeadership({ steal: false });
    }
  }

  #becomeLeader() {
    this.#followLeader(null);
    this.#endOwnStream();
    const { topics, url, minSeverity, consumer, after, token, onDuplicate } = this.#options;
    const from = this.#id;
    this.#leader = new Leader(
      { topics, url, minSeverity, consumer, after, token, onDuplicate },
      {
        status: this.#status,
        cursor: this.#cursor,
        buffer: this.#buffer,
        visibility: () => ({ visible: isVisible(), shown: seqOf(this.#cursor) }),
        dispatch: (callback) => this.#dispatch(callback),
        post: (message) => this.#post({ ...message, from }),
        onTabClosed: (tab, onClosed) => {
          const { signal } = /** @type {AbortController} */ (this.#candidacy);
          navigator.locks.request(this.#lockOf(tab), { signal }, onClosed).catch(() => {});
        },
      },
    );
    this.#leader.begin();
    this.#reportSeen();
  }

  /** Follows a leader, or nobody, and stops leading. @param {string | null} leader */
  #followLeader(leader) {
    this.#followedTab = leader;
    clearTimeout(this.#timer);
    if (!this.#leader) return;
    this.#leader.stop();
    this.#leader = null;
  }

  /** Streams by itself until the leader knows the cursor. The leader acknowledges what it brings to other tabs. */
  #streamAlone() {
    if (this.#own) return;
    const { url, topics, minSeverity, consumer, after, token, onDuplicate } = this.#options;
    const pass = (/** @type {StreamCallback} */ callback) => {
      if (this.#own !== own) return;
      this.#dispatch(callback);
      if (own.status.state !== "live") this.#liveSince = Infinity;
      else this.#liveSince = Math.min(this.#liveSince, Date.now());
      if (this.#liveSince < Infinity && !this.#isJoining) this.#sendJoin({ start: false });
    };
    const own = new StreamClient({
      ...{ url, topics, minSeverity, consumer, token, onDuplicate },
      ...{ after: this.#cursor ?? after, acknowledge: "manual" },
      onState: (value) => pass({ call: "onState", value }),
      onWelcome: (value) => pass({ call: "onWelcome", value }),
      onEvent: (value) => pass({ call: "onEvent", value }),
      onCursor: (value) => pass({ call: "onCursor", value }),
      onGap: (frame) => pass({ call: "onGap", value: { frame, cursor: own.cursor ?? String(frame.to) } }),
      onReset: (value) => pass({ call: "onReset", value }),
      onPresence: (value) => pass({ call: "onPresence", value }),
      onError: (value) => pass({ call: "onError", value }),
    });
    this.#own = own;
    own.start();
  }

  #endOwnStream() {
    const own = this.#own;
    this.#own = null; // It has no more to say.
    this.#liveSince = Infinity;
    own?.stop();
  }

  /** @returns {OwnStream} */
  get #ownStream() {
    if (!this.#own) return "none";
    return Date.now() - this.#liveSince > SETTLED_MS ? "settled" : "live";
  }

  /** Joins the leader, or checks whether it is still there. @param {{start: boolean}} how */
  async #sendJoin({ start }) {
    const member = this.#membership;
    this.#isJoining = true;
    this.#expectReply();
    const token = await this.#ownToken();
    if (!member || member !== this.#membership) return;
    const at = { cursor: this.#cursor, own: this.#ownStream };
    this.#post({ type: "join", from: this.#id, ...at, visible: isVisible(), token, start });
  }

  /** This tab's token; null: another tab's has to do. */
  async #ownToken() {
    try {
      return await this.#options.token(null);
    } catch {
      return null;
    }
  }

  /** Steals the lock if nobody replies in time, unless this tab was suspended meanwhile. */
  #expectReply() {
    clearTimeout(this.#timer);
    const due = Date.now() + REPLY_TIMEOUT_MS;
    this.#timer = setTimeout(() => {
      if (this.#leader || !this.#channel) return;
      if (Date.now() - due < TIMER_TOLERANCE_MS) this.#requestLeadership({ steal: true });
      else this.#sendJoin({ start: false });
    }, REPLY_TIMEOUT_MS);
  }

  /** Checks later whether the leader is still there: it is silent while nothing happens. */
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
        this.#isJoining = false;
        this.#endOwnStream();
        this.#followedTab = message.from;
        this.#reportSeen();
        return this.#checkLeaderLater();
      case "unknown":
        if (message.to !== this.#id || this.#leader) return;
        this.#isJoining = false;
        this.#followedTab = null;
        this.#checkLeaderLater();
        return this.#streamAlone();
      case "stream": {
        const isOurs = message.to === null || message.to === this.#id;
        if (!isOurs || message.from !== this.#followedTab) return;
        return this.#dispatch(message.callback);
      }
      case "seen":
        this.#keepSeen(message.alerts);
        return this.#leader?.onMessage(message);
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
      case "onReset":
        return this.#onReset(value);
      case "onState":
        this.#status = value;
        return options.onState?.(value);
      case "onWelcome":
        return options.onWelcome?.(value);
      case "onPresence":
        return options.onPresence?.(value);
      case "onError":
        return options.onError?.(value);
      case "onSeenReported":
        for (const id of value) this.#seen.delete(id);
        return options.onSeenReported?.(value);
    }
  }

  /** What a tab that joined ahead of the stream has already is left out. @param {EventFrame} event */
  #onEvent(event) {
    if (event.seq <= seqOf(this.#cursor)) return;
    this.#buffer.add(event);
    this.#options.onEvent?.(event);
    this.#advance(event.cursor);
    if (!this.#leader && isVisible()) this.#reportVisibility();
  }

  /** @param {string} to */
  #advance(to) {
    const cursor = furthest(this.#cursor, to);
    if (cursor === this.#cursor) return;
    this.#cursor = cursor;
    if (!this.#leader) this.#buffer.advance(cursor);
    this.#options.onCursor?.(cursor);
  }

  /** @param {GapFrame} frame @param {string} cursor */
  #onGap(frame, cursor) {
    if (frame.to <= seqOf(this.#cursor)) return;
    this.#cursor = cursor;
    if (!this.#leader) this.#buffer.reset(cursor);
    this.#options.onGap?.(frame);
    this.#options.onCursor?.(cursor);
  }

  /** @param {ResetFrame} frame */
  #onReset(frame) {
    this.#cursor = frame.cursor;
    if (!this.#leader) this.#buffer.reset(frame.cursor);
    this.#options.onReset?.(frame);
    this.#options.onCursor?.(frame.cursor);
  }

  /** Reports up to where this tab has shown events, and whether it is visible. */
  #reportVisibility() {
    if (this.#leader) this.#leader.acknowledge();
    else this.#post({ type: "visibility", from: this.#id, visible: isVisible(), shown: this.#buffer.last });
  }

  /** @param {string[]} alerts */
  #keepSeen(alerts) {
    for (const id of alerts) this.#seen.add(id);
  }

  /** Tells the leader, and the other tabs. @param {string[]} alerts */
  #reportSeen(alerts = [...this.#seen]) {
    if (alerts.length === 0) return;
    this.#leader?.seen(alerts);
    this.#post({ type: "seen", from: this.#id, alerts });
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
    const { since, transport } = this.#status;
    this.#status = { ...SIGNED_OUT, since, transport, state };
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
