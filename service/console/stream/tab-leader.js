/**
 * The tab that leads: it runs the stream for all tabs that share it (see shared.js), its own among them.
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
/** @import { FromTab, Hello, Shared, ToTab } from "./tab-messages.js" */
/** @import { Recent } from "./event-buffer.js" */

/** @typedef {{visible: boolean, seen: number, token: string | null}} Tab */

/**
 * @typedef {object} Seat  What the leader needs of the tab that it is in.
 * @property {Status} status
 * @property {number | null} cursor
 * @property {Recent} recent
 * @property {() => {visible: boolean, seen: number}} look  Up to where it has shown all, and whether anybody can see it.
 * @property {(shared: Shared) => void} take    This tab gets its part.
 * @property {(message: ToTab) => void} post    The other tabs get theirs.
 * @property {(tab: string, gone: () => void) => void} whenGone
 */

export class Leader {
  #options;
  #seat;
  #client;
  #over = false;
  #status;
  /** @type {WelcomeFrame | null} */ #welcome = null;
  /** @type {Map<string, Tab>} The other tabs, by id. */ #tabs = new Map();
  #highest; // Where the log was at least. One that ends before it is another log.
  /** @type {Set<string>} */ #refused = new Set();
  /** @type {string | null} */ #used = null;

  /** @param {StreamOptions} options @param {Seat} seat */
  constructor(options, seat) {
    this.#options = options;
    this.#seat = seat;
    this.#status = seat.status;
    this.#highest = seat.cursor ?? 0;
    this.#client = new StreamClient({
      url: options.url,
      topics: options.topics,
      minSeverity: options.minSeverity,
      after: seat.cursor ?? options.after,
      acknowledge: "manual",
      token: (refused) => this.#token(refused),
      onState: (value) => {
        this.#status = value;
        this.#share({ call: "onState", value });
      },
      onWelcome: (frame) => this.#welcomed(frame),
      onEvent: (frame) => this.#event(frame),
      onCursor: (seq) => this.#reached(seq),
      onGap: (frame) => this.#gap(frame, this.#client.cursor ?? frame.to),
      onPresence: (value) => this.#share({ call: "onPresence", value }),
      onError: (value) => this.#share({ call: "onError", value }),
      onDuplicate: (seq) => options.onDuplicate?.(seq),
    });
    if (seat.cursor !== null && !seat.recent.covers(seat.cursor)) seat.recent.begin(seat.cursor);
  }

  /** Calls the other tabs, and begins where the last leader ended: with the stream, or signed out. */
  lead() {
    this.#seat.post({ type: "lead" });
    if (this.#status.state !== "signed-out") this.#client.start();
  }

  /** A person brought a token, or wants to go on. */
  start() {
    this.#refused.clear();
    this.#client.start();
  }

  stop() {
    this.#over = true;
    this.#client.stop();
  }

  wake() {
    this.#client.wake();
  }

  /** @param {FromTab} message */
  hear(message) {
    switch (message.type) {
      case "hello":
        return this.#join(message);
      case "look": {
        const tab = this.#tabs.get(message.from);
        if (tab) Object.assign(tab, { visible: message.visible, seen: message.seen });
        return this.acknowledge();
      }
      case "wake":
        return this.wake();
      case "bye":
        return this.#gone(message.from);
    }
  }

  acknowledge() {
    const here = this.#seat.look();
    const visible = [here, ...this.#tabs.values()].filter((tab) => tab.visible);
    this.#client.acknowledge(visible.length ? Math.max(...visible.map((tab) => tab.seen)) : here.seen);
  }

  /** @param {Hello} hello */
  #join({ from, cursor, visible, token, start }) {
    const { post, recent, whenGone } = this.#seat;
    const known = this.#tabs.has(from);
    this.#tabs.set(from, { visible, seen: cursor ?? 0, token });
    if (!known && cursor !== null && !recent.covers(cursor)) {
      recent.begin(cursor);
      this.#client.rewind(cursor);
    }
    if (start) this.#refused.clear();
    if (this.#status.state === "signed-out" && (start || this.#helps(token))) this.#client.start();
    post({ type: "joined", to: from });
    if (known && !start) return; // It asked whether we are still there, and has had everything.
    this.#sendAll(from, cursor ?? recent.head);
    if (!known) whenGone(from, () => this.#gone(from));
  }

  /** @param {string} to @param {number} cursor */
  #sendAll(to, cursor) {
    const { post, recent } = this.#seat;
    if (this.#welcome) post({ type: "share", to, shared: { call: "onWelcome", value: this.#welcome } });
    for (const value of recent.after(cursor)) post({ type: "share", to, shared: { call: "onEvent", value } });
    if (recent.floor !== null) post({ type: "share", to, shared: { call: "onCursor", value: recent.head } });
    post({ type: "share", to, shared: { call: "onState", value: this.#status } });
  }

  /** @param {string} tab */
  #gone(tab) {
    this.#tabs.delete(tab);
    if (!this.#over) this.acknowledge();
  }

  /** Whether the stream ended for want of a token, and this one may do. @param {string | null} token */
  #helps(token) {
    return token !== null && !this.#refused.has(token) && closePolicy(1008, this.#status.reason ?? "") === "refresh";
  }

  /** @param {string | null} refused */
  async #token(refused) {
    if (refused && this.#used) this.#refused.add(this.#used);
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
      .filter((token) => !this.#refused.has(token))
      .sort((one, other) => expiryOf(other) - expiryOf(one));
    if (!best && failure) throw failure;
    this.#used = best ?? null;
    return this.#used;
  }

  /** @param {WelcomeFrame} frame */
  #welcomed(frame) {
    this.#welcome = frame;
    this.#share({ call: "onWelcome", value: frame });
    // The server tells of another log only where our position is beyond its end; after a rewind another tab's is.
    const isOther = frame.head < this.#highest && (this.#client.cursor ?? 0) <= frame.head;
    if (isOther) this.#gap({ type: "gap", from: frame.head + 1, to: this.#highest, reason: "reset" }, frame.after);
  }

  /** @param {EventFrame} value */
  #event(value) {
    this.#seat.recent.add(value);
    this.#share({ call: "onEvent", value });
  }

  /** @param {number} seq */
  #reached(seq) {
    const { recent } = this.#seat;
    const isNews = recent.floor === null || seq > recent.head; // An event has moved the tabs' cursors already.
    recent.reach(seq);
    this.#highest = Math.max(this.#highest, seq);
    if (isNews) this.#share({ call: "onCursor", value: seq });
    this.acknowledge();
  }

  /** What memory holds is on the other side of the gap. @param {GapFrame} frame @param {number} cursor */
  #gap(frame, cursor) {
    if (frame.reason === "reset") this.#highest = cursor;
    this.#seat.recent.begin(cursor);
    this.#share({ call: "onGap", value: { frame, cursor } });
  }

  /** @param {Shared} shared */
  #share(shared) {
    if (this.#over) return;
    if (this.#tabs.size > 0) this.#seat.post({ type: "share", to: null, shared });
    this.#seat.take(shared);
  }
}
