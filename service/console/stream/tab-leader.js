/**
 * The leader among the tabs that share a stream (see shared-stream.js): it runs the stream for all of them.
 *
 * - Every frame is passed on, in order, to the tabs that have joined and to this tab.
 * - A tab that joins sends its cursor, and gets the later events from the buffer. If the buffer does not reach back that
 *   far, the stream is rewound to the cursor, and the other tabs ignore the repetitions. So no event is missing.
 * - An event is acknowledged when a visible tab has shown it or, if no tab is visible, when this tab has.
 * - Of the tabs' tokens, the one that expires last is used, and none that was refused. When a tab leaves, its token is no
 *   longer used.
 */

import { expiryOf } from "../auth/jwt-claims.js";
import { closePolicy } from "./close-policy.js";
import { StreamClient } from "./stream-client.js";

/** @import { EventFrame, GapFrame, WelcomeFrame } from "./wire-types.js" */
/** @import { Status, StreamOptions } from "./stream-client.js" */
/** @import { FollowerMessage, JoinMessage, StreamCallback, LeaderMessage } from "./tab-messages.js" */
/** @import { EventBuffer } from "./event-buffer.js" */

/** @typedef {{visible: boolean, shown: number, token: string | null}} Tab */

/**
 * @typedef {object} LeaderContext  The leader's own tab.
 * @property {Status} status
 * @property {number | null} cursor
 * @property {EventBuffer} buffer
 * @property {() => {visible: boolean, shown: number}} visibility  `shown`: up to where events were shown.
 * @property {(callback: StreamCallback) => void} dispatch    To this tab.
 * @property {(message: LeaderMessage) => void} post    To the other tabs.
 * @property {(tab: string, onClosed: () => void) => void} onTabClosed
 */

export class Leader {
  #options;
  #context;
  #client;
  #isStopped = false;
  #status;
  /** @type {WelcomeFrame | null} */ #welcome = null;
  /** @type {Map<string, Tab>} The other tabs, by id. */ #tabs = new Map();
  #highestSeq; // Of the log, as far as is known. A log that ends before it is another log.
  /** @type {Set<string>} */ #refusedTokens = new Set();
  /** @type {string | null} */ #usedToken = null;

  /** @param {StreamOptions} options @param {LeaderContext} context */
  constructor(options, context) {
    this.#options = options;
    this.#context = context;
    this.#status = context.status;
    this.#highestSeq = context.cursor ?? 0;
    this.#client = new StreamClient({
      url: options.url,
      topics: options.topics,
      minSeverity: options.minSeverity,
      after: context.cursor ?? options.after,
      acknowledge: "manual",
      token: (refused) => this.#chooseToken(refused),
      onState: (value) => {
        this.#status = value;
        this.#broadcast({ call: "onState", value });
      },
      onWelcome: (frame) => this.#onWelcome(frame),
      onEvent: (frame) => this.#onEvent(frame),
      onCursor: (seq) => this.#onCursor(seq),
      onGap: (frame) => this.#onGap(frame, this.#client.cursor ?? frame.to),
      onPresence: (value) => this.#broadcast({ call: "onPresence", value }),
      onError: (value) => this.#broadcast({ call: "onError", value }),
      onDuplicate: (seq) => options.onDuplicate?.(seq),
    });
    if (context.cursor !== null && !context.buffer.covers(context.cursor)) context.buffer.reset(context.cursor);
  }

  /** Announces the leader, and continues as the last one ended: with the stream, or signed out. */
  begin() {
    this.#context.post({ type: "leader" });
    if (this.#status.state !== "signed-out") this.#client.start();
  }

  /** The person brought a token, or asked to continue. */
  start() {
    this.#refusedTokens.clear();
    this.#client.start();
  }

  stop() {
    this.#isStopped = true;
    this.#client.stop();
  }

  wake() {
    this.#client.wake();
  }

  /** @param {FollowerMessage} message */
  onMessage(message) {
    switch (message.type) {
      case "join":
        return this.#join(message);
      case "visibility": {
        const tab = this.#tabs.get(message.from);
        if (tab) Object.assign(tab, { visible: message.visible, shown: message.shown });
        return this.acknowledge();
      }
      case "seen":
        return this.seen(message.alerts);
      case "wake":
        return this.wake();
      case "leave":
        return this.#removeTab(message.from);
    }
  }

  /** Reports alerts that somebody saw in any of the tabs. @param {string[]} alerts  Their ids. */
  seen(alerts) {
    this.#client.seen(alerts);
  }

  acknowledge() {
    const here = this.#context.visibility();
    const visible = [here, ...this.#tabs.values()].filter((tab) => tab.visible);
    this.#client.acknowledge(visible.length ? Math.max(...visible.map((tab) => tab.shown)) : here.shown);
  }

  /** @param {JoinMessage} message */
  #join({ from, cursor, visible, token, start }) {
    const { post, buffer, onTabClosed } = this.#context;
    const known = this.#tabs.has(from);
    this.#tabs.set(from, { visible, shown: cursor ?? 0, token });
    if (!known && cursor !== null && !buffer.covers(cursor)) {
      buffer.reset(cursor);
      this.#client.rewind(cursor);
    }
    if (start) this.#refusedTokens.clear();
    if (this.#status.state === "signed-out" && (start || this.#canRestartWith(token))) this.#client.start();
    post({ type: "joined", to: from });
    if (known && !start) return; // It only checked whether the leader is still there.
    this.#sendMissed(from, cursor ?? buffer.head);
    if (!known) onTabClosed(from, () => this.#removeTab(from));
  }

  /** @param {string} to @param {number} cursor */
  #sendMissed(to, cursor) {
    const { post, buffer } = this.#context;
    if (this.#welcome) post({ type: "stream", to, callback: { call: "onWelcome", value: this.#welcome } });
    for (const value of buffer.after(cursor)) post({ type: "stream", to, callback: { call: "onEvent", value } });
    if (buffer.floor !== null) post({ type: "stream", to, callback: { call: "onCursor", value: buffer.head } });
    post({ type: "stream", to, callback: { call: "onState", value: this.#status } });
  }

  /** @param {string} tab */
  #removeTab(tab) {
    this.#tabs.delete(tab);
    if (!this.#isStopped) this.acknowledge();
  }

  /** Whether the stream ended because of its token, and this one may work. @param {string | null} token */
  #canRestartWith(token) {
    return (
      token !== null && !this.#refusedTokens.has(token) && closePolicy(1008, this.#status.reason ?? "") === "refresh"
    );
  }

  /** @param {string | null} refused */
  async #chooseToken(refused) {
    if (refused && this.#usedToken) this.#refusedTokens.add(this.#usedToken);
    let failure = null;
    /** @type {(string | null)[]} */ const tokens = [];
    try {
      tokens.push(await this.#options.token(refused));
    } catch (error) {
      failure = error;
    }
    for (const { token } of this.#tabs.values()) tokens.push(token);
    const [best] = tokens
      .filter((token) => token !== null)
      .filter((token) => !this.#refusedTokens.has(token))
      .sort((one, other) => expiryOf(other) - expiryOf(one));
    if (!best && failure) throw failure;
    this.#usedToken = best ?? null;
    return this.#usedToken;
  }

  /** @param {WelcomeFrame} frame */
  #onWelcome(frame) {
    this.#welcome = frame;
    this.#broadcast({ call: "onWelcome", value: frame });
    // The server reports another log only to a cursor beyond its end; after a rewind, that of another tab may be.
    const isOther = frame.head < this.#highestSeq && (this.#client.cursor ?? 0) <= frame.head;
    if (isOther) this.#onGap({ type: "gap", from: frame.head + 1, to: this.#highestSeq, reason: "reset" }, frame.after);
  }

  /** @param {EventFrame} value */
  #onEvent(value) {
    this.#context.buffer.add(value);
    this.#broadcast({ call: "onEvent", value });
  }

  /** @param {number} seq */
  #onCursor(seq) {
    const { buffer } = this.#context;
    const isNew = buffer.floor === null || seq > buffer.head; // Events have moved the tabs' cursors already.
    buffer.advance(seq);
    this.#highestSeq = Math.max(this.#highestSeq, seq);
    if (isNew) this.#broadcast({ call: "onCursor", value: seq });
    this.acknowledge();
  }

  /** The buffer would have a gap, so it starts again. @param {GapFrame} frame @param {number} cursor */
  #onGap(frame, cursor) {
    if (frame.reason === "reset") this.#highestSeq = cursor;
    this.#context.buffer.reset(cursor);
    this.#broadcast({ call: "onGap", value: { frame, cursor } });
  }

  /** @param {StreamCallback} callback */
  #broadcast(callback) {
    if (this.#isStopped) return;
    if (this.#tabs.size > 0) this.#context.post({ type: "stream", to: null, callback });
    this.#context.dispatch(callback);
  }
}
