/**
 * The leader among the tabs that share a stream (see shared-stream.js): it runs the stream for all of them.
 *
 * - Everything that comes is passed on to the tabs that have joined, in order, and to this tab.
 * - A tab that joins says up to where it has everything. What came since is sent to it from memory; where memory does not
 *   reach back that far, the stream is rewound to there, and the other tabs leave out what they have. So there is no hole.
 * - An event is acknowledged when a visible tab has shown it; while no tab is visible, when this one has.
 * - Of the tokens that the tabs hold the one that lives longest is used, and none again that was refused. A tab that
 *   leaves takes its token along: it opens no further connection.
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
 * @typedef {object} LeaderContext  What the leader needs of the tab that it is in.
 * @property {Status} status
 * @property {number | null} cursor
 * @property {EventBuffer} buffer
 * @property {() => {visible: boolean, shown: number}} visibility  Up to where it has shown all, and whether anybody can see it.
 * @property {(callback: StreamCallback) => void} dispatch    This tab gets its part.
 * @property {(message: LeaderMessage) => void} post    The other tabs get theirs.
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
  #highestSeq; // Where the log was at least. One that ends before it is another log.
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

  /** Calls the other tabs, and begins where the last leader ended: with the stream, or signed out. */
  begin() {
    this.#context.post({ type: "leader" });
    if (this.#status.state !== "signed-out") this.#client.start();
  }

  /** A person brought a token, or wants to go on. */
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
      case "wake":
        return this.wake();
      case "leave":
        return this.#removeTab(message.from);
    }
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
    if (known && !start) return; // It asked whether we are still there, and has had everything.
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

  /** Whether the stream ended for want of a token, and this one may do. @param {string | null} token */
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
    // The server tells of another log only where our position is beyond its end; after a rewind another tab's is.
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
    const isNews = buffer.floor === null || seq > buffer.head; // An event has moved the tabs' cursors already.
    buffer.advance(seq);
    this.#highestSeq = Math.max(this.#highestSeq, seq);
    if (isNews) this.#broadcast({ call: "onCursor", value: seq });
    this.acknowledge();
  }

  /** What memory holds is on the other side of the gap. @param {GapFrame} frame @param {number} cursor */
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
