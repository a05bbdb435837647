/**
 * The leader among the tabs that share a stream (see shared-stream.js): it runs the stream for all of them.
 *
 * - Every frame is passed on, in order, to the tabs that have joined and to this tab.
 * - A tab that joins sends its cursor, and gets the later events from the buffer, so that none is missing. The buffer has to
 *   know the cursor: the tab may be of another history of the log, if it was frozen during a failover. A cursor ahead of the
 *   stream, as of a list that was just loaded, is believed until the stream gets there. A tab whose cursor turns out to be
 *   unknown streams by itself, because only the server can say what its cursor is.
 * - An event is acknowledged when a visible tab has shown it or, if no tab is visible, when this tab has.
 * - Of the tabs' tokens, the one that expires last is used, and none that was refused. When a tab leaves, its token is no
 *   longer used.
 */

import { expiryOf } from "../auth/jwt-claims.js";
import { closePolicy } from "./close-policy.js";
import { seqOf } from "./cursor.js";
import { StreamClient } from "./stream-client.js";

/** @import { EventFrame, GapFrame, ResetFrame, WelcomeFrame } from "./wire-types.js" */
/** @import { Status, StreamOptions } from "./stream-client.js" */
/** @import { FollowerMessage, JoinMessage, LeaderMessage, OwnStream, StreamCallback } from "./tab-messages.js" */
/** @import { EventBuffer } from "./event-buffer.js" */

/** @typedef {{cursor: string, at: number}} Claim  The cursor of a tab that joined ahead of the stream, and when. */
/** @typedef {{visible: boolean, shown: number, token: string | null, claim: Claim | null}} Tab */

/**
 * @typedef {object} LeaderContext  The leader's own tab.
 * @property {Status} status
 * @property {string | null} cursor
 * @property {EventBuffer} buffer
 * @property {() => {visible: boolean, shown: number}} visibility  `shown`: up to where events were shown.
 * @property {(callback: StreamCallback) => void} dispatch    To this tab.
 * @property {(message: LeaderMessage) => void} post    To the other tabs.
 * @property {(tab: string, onClosed: () => void) => void} onTabClosed
 */

/** By then, a node has noticed that the history of the log changed, and has closed its streams. */
export const SETTLED_MS = 5_000;

export class Leader {
  #options;
  #context;
  #client;
  #isStopped = false;
  #status;
  /** @type {WelcomeFrame | null} */ #welcome = null;
  /** @type {Map<string, Tab>} The other tabs, by id. */ #tabs = new Map();
  /** @type {Set<string>} */ #refusedTokens = new Set();
  /** @type {string | null} */ #usedToken = null;

  /** @param {StreamOptions} options @param {LeaderContext} context */
  constructor(options, context) {
    this.#options = options;
    this.#context = context;
    this.#status = context.status;
    this.#client = new StreamClient({
      url: options.url,
      topics: options.topics,
      minSeverity: options.minSeverity,
      consumer: options.consumer,
      after: context.cursor ?? options.after,
      acknowledge: "manual",
      token: (refused) => this.#chooseToken(refused),
      onState: (value) => {
        this.#status = value;
        this.#broadcast({ call: "onState", value });
      },
      onWelcome: (frame) => this.#onWelcome(frame),
      onEvent: (frame) => this.#onEvent(frame),
      onCursor: (cursor) => this.#onCursor(cursor),
      onGap: (frame) => this.#onGap(frame, this.#client.cursor ?? String(frame.to)),
      onReset: (frame) => this.#onReset(frame),
      onPresence: (value) => this.#broadcast({ call: "onPresence", value }),
      onError: (value) => this.#broadcast({ call: "onError", value }),
      onSeenReported: (value) => this.#broadcast({ call: "onSeenReported", value }),
      onDuplicate: (seq) => options.onDuplicate?.(seq),
    });
    if (context.cursor !== null && !context.buffer.holds(context.cursor)) context.buffer.reset(context.cursor);
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
        const { from, visible, shown } = message;
        const tab = this.#tabs.get(from);
        if (tab) tab.visible = visible;
        // What a tab showed before a reset may be reported after it.
        if (tab && shown !== null && this.#context.buffer.holds(shown)) tab.shown = seqOf(shown);
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
  #join({ from, cursor, own, visible, token, start }) {
    const { post, buffer, onTabClosed } = this.#context;
    const known = this.#tabs.get(from);
    const isHeld = cursor === null || own === "settled" || buffer.holds(cursor);
    if (known) Object.assign(known, { visible, token, shown: isHeld ? seqOf(cursor) : known.shown });
    else if (!this.#canFollow(cursor, own)) return post({ type: "unknown", to: from });
    else {
      const claim = isHeld ? null : { cursor, at: Date.now() };
      this.#tabs.set(from, { visible, shown: isHeld ? seqOf(cursor) : 0, token, claim });
    }
    if (start) this.#refusedTokens.clear();
    if (this.#status.state === "signed-out" && (start || this.#canRestartWith(token))) this.#client.start();
    post({ type: "joined", to: from });
    if (known && !start) return; // It only checked whether the leader is still there.
    this.#sendMissed(from, cursor ?? buffer.head);
    if (!known) onTabClosed(from, () => this.#removeTab(from));
  }

  /** Whether what follows on a cursor is what this stream brings. @param {string | null} cursor @param {OwnStream} own */
  #canFollow(cursor, own) {
    const { buffer } = this.#context;
    if (cursor === null || buffer.holds(cursor)) return true;
    if (own === "settled") return buffer.covers(cursor);
    return own === "none" && seqOf(cursor) > seqOf(buffer.head);
  }

  /** Tabs that joined ahead of the stream: now that it is there, their cursors are known, or else they cannot follow. */
  #checkClaims() {
    const { buffer } = this.#context;
    for (const [id, tab] of this.#tabs) {
      if (!tab.claim) continue;
      const { cursor, at } = tab.claim;
      if (buffer.holds(cursor)) tab.claim = null;
      else if (seqOf(cursor) <= seqOf(buffer.head) || Date.now() - at > SETTLED_MS) this.#dismiss(id);
    }
  }

  /** A tab cannot follow. @param {string} tab */
  #dismiss(tab) {
    this.#tabs.delete(tab);
    this.#context.post({ type: "unknown", to: tab });
  }

  /** @param {string} to @param {string} cursor */
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
  }

  /** @param {EventFrame} value */
  #onEvent(value) {
    this.#context.buffer.add(value);
    this.#checkClaims();
    this.#broadcast({ call: "onEvent", value });
  }

  /** @param {string} value */
  #onCursor(value) {
    const { buffer } = this.#context;
    const isNew = buffer.floor === null || value !== buffer.head; // Events have moved the tabs' cursors already.
    buffer.advance(value);
    this.#checkClaims();
    if (isNew) this.#broadcast({ call: "onCursor", value });
    this.acknowledge();
  }

  /** What tabs have shown may be void. @param {ResetFrame} value */
  #onReset(value) {
    this.#context.buffer.reset(value.cursor);
    for (const [id, tab] of this.#tabs) {
      tab.shown = 0;
      if (tab.claim) this.#dismiss(id); // The reset is about the cursor of the others.
    }
    this.#broadcast({ call: "onReset", value });
  }

  /** The buffer would have a gap, so it starts again. @param {GapFrame} frame @param {string} cursor */
  #onGap(frame, cursor) {
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
