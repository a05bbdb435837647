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
 * Whoever holds a Web Lock leads and runs the stream (leader.js); the others follow over a BroadcastChannel. The browser
 * gives the lock to the next tab when the one that leads closes, crashes, navigates away or is frozen, and that one goes
 * on from its own cursor.
 *
 * What holds, beyond what StreamClient promises:
 * - Each tab keeps a cursor of its own, and its `onEvent` sees strictly increasing `seq`, none missing from where the tab
 *   started, whoever leads. A tab listens to one leader only, from its answer to "hello, I have everything up to …" on;
 *   what is still under way from an earlier one is left out, so nothing can overtake.
 * - Tabs share only where `share`, `url`, `topics` and `minSeverity` are equal. `share` has to name the admin and what their
 *   token lets them see: `viewOf` of token.js does. Share only after the server accepted the tab's token (as by loading a
 *   list with it): the channel asks for none.
 * - A leader that does not answer, because its page hangs, is replaced after `ANSWER_MS`.
 * - Without locks or channels (an old browser, a page without TLS) each tab has its own stream.
 */

import { Recent } from "./event-buffer.js";
import { keepAlive } from "./page-lifecycle.js";
import { Leader } from "./tab-leader.js";

/** @import { EventFrame, GapFrame } from "./wire-types.js" */
/** @import { Status, StreamOptions } from "./stream-client.js" */
/** @import { FromTab, Message, Shared } from "./tab-messages.js" */

/** @typedef {Omit<StreamOptions, "acknowledge"> & {share: string}} SharedOptions */

const PROTOCOL = 1; // Of messages.js: pages of two versions of this file do not talk to each other.
const ANSWER_MS = 10_000;
const ASK_MS = 20_000;
const LATE_MS = 1_000;

export class SharedStream {
  #options;
  #name;
  #id = ""; // New each time that this tab joins: the leader may still be told that the last one has gone.
  /** @type {Status} */ #status = { state: "signed-out", reason: null, since: null, way: "socket", retryAt: null };
  /** @type {number | null} */ #cursor;
  #recent = new Recent();

  /** Until this tab leaves. @type {AbortController | null} */ #member = null;
  /** Until it leaves, or somebody takes the lock away. @type {AbortController | null} */ #candidate = null;
  /** @type {BroadcastChannel | null} */ #channel = null;
  /** @type {Leader | null} */ #leader = null;
  /** The tab that leads, once it has answered. @type {string | null} */ #followed = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #endKeepAlive = () => {};
  #paused = false;

  /** @param {SharedOptions} options */
  constructor(options) {
    const { share, url, topics = null, minSeverity = null, after } = options;
    this.#options = options;
    this.#name = `tocsin-stream-${PROTOCOL} ${JSON.stringify([share, url, topics, minSeverity])}`;
    this.#cursor = typeof after === "number" ? after : null;
    if (this.#cursor !== null) this.#recent.begin(this.#cursor);
  }

  get status() {
    return this.#status;
  }

  get cursor() {
    return this.#cursor;
  }

  /** Whether this tab has the stream: for what only one tab of a browser is to do. */
  get leads() {
    return this.#leader !== null;
  }

  /** Connects or joins, or goes on from the cursor after `signed-out`. Does nothing while the stream is under way. */
  start() {
    if (this.#status.state !== "signed-out") return;
    this.#enter("connecting");
    if (this.#leader) return this.#leader.start();
    if (this.#member) return void this.#greet({ start: true });
    this.#endKeepAlive = keepAlive(this);
    this.#join({ start: true });
  }

  /** Leaves; the other tabs go on. */
  stop() {
    this.#endKeepAlive();
    this.#paused = false;
    this.#leave();
    this.#enter("signed-out");
  }

  /** Leaves until `wake()`: the page is about to be frozen, and must not keep the others waiting. */
  pause() {
    if (!this.#member) return;
    this.#paused = true;
    this.#leave();
    if (this.#status.state !== "signed-out") this.#enter("waiting");
  }

  /** For when the machine woke up or is online again: joins again, retries now, or finds out that the server is gone. */
  wake() {
    if (this.#paused) return this.#join({ start: false });
    this.#look();
    if (this.#leader) this.#leader.wake();
    else this.#post({ type: "wake", from: this.#id });
  }

  /** Tells whoever leads that this tab has a fresh token. */
  renew() {
    if (this.#member && !this.#leader) this.#greet({ start: false });
  }

  /** @param {{start: boolean}} how */
  #join(how) {
    const member = new AbortController();
    this.#member = member;
    this.#paused = false;
    this.#id = Math.random().toString(36).slice(2);
    if (!navigator.locks || typeof BroadcastChannel === "undefined") return this.#lead();
    document.addEventListener("visibilitychange", () => this.#look(), { signal: member.signal });
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    // Who leads learns by this lock that we are gone, so it is taken before the first word.
    hold(this.#lockOf(this.#id), member.signal, { signal: member.signal }, () => this.#greet(how)).catch(() => {});
    this.#stand({ steal: false });
  }

  #leave() {
    if (!this.#leader) this.#post({ type: "bye", from: this.#id });
    this.#follow(null);
    this.#channel?.close();
    this.#channel = null;
    this.#candidate?.abort();
    this.#member?.abort();
    this.#member = null;
  }

  /** Waits for the lock, or takes it from a leader who does not answer. @param {{steal: boolean}} how */
  async #stand({ steal }) {
    this.#candidate?.abort();
    this.#candidate = new AbortController();
    const { signal } = this.#candidate;
    try {
      await hold(this.#name, signal, steal ? { steal } : { signal }, () => this.#lead());
    } catch {
      if (signal.aborted) return;
      const wasLeading = this.#leader !== null;
      if (!wasLeading) return this.#lead(); // There are no locks here after all, as where storage is blocked.
      this.#follow(null);
      this.#greet({ start: false });
      this.#stand({ steal: false });
    }
  }

  #lead() {
    this.#follow(null);
    const { topics, url, minSeverity, after, token, onDuplicate } = this.#options;
    const from = this.#id;
    this.#leader = new Leader(
      { topics, url, minSeverity, after, token, onDuplicate },
      {
        status: this.#status,
        cursor: this.#cursor,
        recent: this.#recent,
        look: () => ({ visible: isVisible(), seen: this.#cursor ?? 0 }),
        take: (shared) => this.#take(shared),
        post: (message) => this.#post({ ...message, from }),
        whenGone: (tab, gone) => {
          const { signal } = /** @type {AbortController} */ (this.#candidate);
          navigator.locks.request(this.#lockOf(tab), { signal }, gone).catch(() => {});
        },
      },
    );
    this.#leader.lead();
  }

  /** Listens to this tab only, and leads no longer. @param {string | null} leader */
  #follow(leader) {
    this.#followed = leader;
    clearTimeout(this.#timer);
    if (!this.#leader) return;
    this.#leader.stop();
    this.#leader = null;
    // After a rewind the memory may end before our cursor: what lies between was passed on, and is not kept.
    if (this.#cursor !== null && this.#recent.head < this.#cursor) this.#recent.begin(this.#cursor);
  }

  /** Joins whoever leads, or asks whether it is still there. @param {{start: boolean}} how */
  async #greet({ start }) {
    const member = this.#member;
    this.#expectAnswer();
    const token = await this.#token();
    if (!member || member !== this.#member) return;
    this.#post({ type: "hello", from: this.#id, cursor: this.#cursor, visible: isVisible(), token, start });
  }

  /** The token that this tab can give; null: another tab's has to do. */
  async #token() {
    try {
      return await this.#options.token(null);
    } catch {
      return null;
    }
  }

  /** Takes the lead where nobody answers in time, unless it was we who slept. */
  #expectAnswer() {
    clearTimeout(this.#timer);
    const due = Date.now() + ANSWER_MS;
    this.#timer = setTimeout(() => {
      if (this.#leader || !this.#channel) return;
      if (Date.now() - due < LATE_MS) this.#stand({ steal: true });
      else this.#greet({ start: false });
    }, ANSWER_MS);
  }

  /** Asks now and then whether the leader is still there: it may be silent because nothing happens. */
  #askLater() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#greet({ start: false }), ASK_MS);
  }

  /** @param {Message} message */
  #hear(message) {
    switch (message.type) {
      case "lead":
        this.#followed = null;
        return void (this.#leader ? undefined : this.#greet({ start: false }));
      case "joined":
        if (message.to !== this.#id || this.#leader) return;
        this.#followed = message.from;
        return this.#askLater();
      case "share": {
        const isOurs = message.to === null || message.to === this.#id;
        if (!isOurs || message.from !== this.#followed) return;
        return this.#take(message.shared);
      }
      default:
        return this.#leader?.hear(message);
    }
  }

  /** @param {Shared} shared */
  #take({ call, value }) {
    const options = this.#options;
    switch (call) {
      case "onEvent":
        return this.#show(value);
      case "onCursor":
        return this.#advance(value);
      case "onGap":
        return this.#cross(value.frame, value.cursor);
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
  #show(event) {
    if (event.seq <= (this.#cursor ?? 0)) return;
    this.#recent.add(event);
    this.#options.onEvent?.(event);
    this.#advance(event.seq);
    if (!this.#leader && isVisible()) this.#look();
  }

  /** @param {number} seq */
  #advance(seq) {
    if (this.#cursor !== null && seq <= this.#cursor) return;
    this.#cursor = seq;
    if (!this.#leader) this.#recent.reach(seq);
    this.#options.onCursor?.(seq);
  }

  /** @param {GapFrame} frame @param {number} cursor */
  #cross(frame, cursor) {
    if (frame.reason === "purged" && frame.to <= (this.#cursor ?? 0)) return;
    this.#cursor = cursor;
    if (!this.#leader) this.#recent.begin(cursor);
    this.#options.onGap?.(frame);
  }

  /** Tells what this tab has shown, and whether anybody can see it. */
  #look() {
    if (this.#leader) this.#leader.acknowledge();
    else this.#post({ type: "look", from: this.#id, visible: isVisible(), seen: this.#cursor ?? 0 });
  }

  /** @param {Message | FromTab} message */
  #post(message) {
    this.#channel?.postMessage(message);
  }

  /** @param {string} tab */
  #lockOf(tab) {
    return `${this.#name} ${tab}`;
  }

  /** @param {Status["state"]} state */
  #enter(state) {
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
