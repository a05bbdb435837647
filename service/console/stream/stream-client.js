/**
 * The stream client: one recipient's live view of the event log, over `GET /v1/ws`, or over `GET /v1/events` where
 * WebSockets are blocked. It uses no DOM, only `WebSocket` and `fetch`, so any page or script can import it.
 *
 *     const client = new StreamClient({
 *       url: "wss://tocsin.example/v1/ws",
 *       after: page.cursor,
 *       token: (refused) => refused ? login.refresh() : login.token,
 *       onEvent: (event) => show(event.alert),
 *     });
 *     client.start();
 *
 *     signed-out --start()--> connecting --welcome--> catching-up --caught_up--> live
 *         ^                    ^     |                     |                       |
 *         |      timer, wake() |     +---------------------+-- connection lost ----+
 *         |                    |     v
 *         |                   waiting
 *         +--- from any state: stop(), or a refusal that no retry cures
 *
 * Invariants:
 * - `onEvent` is called with strictly increasing `seq`, also across reconnects: each resumes after the cursor, which has
 *   the mark of the event there. Only a `reset` starts the numbers over: the log lost events, in a failover or a restore,
 *   and has others with the same seq.
 * - An event is acknowledged only after `onEvent` returned, so return when it has been shown or stored. Acks are
 *   cumulative: an event whose `onEvent` threw is covered by the next. With `acknowledge: "manual"` nothing is
 *   acknowledged until `acknowledge(seq)` is called (but a long poll acknowledges what the one before it returned).
 * - What came before a connection is acknowledged on it only if it begins at the cursor. Otherwise a reset or a gap
 *   follows, and the ack would be the receipt of other events.
 * - If a WebSocket cannot be opened, server-sent events are tried at once, and long polls if their answer is held back.
 *   A WebSocket that the server refuses is no reason to fall back. The transport that worked is kept, and the WebSocket
 *   is tried again every 5 minutes.
 * - A silent server is noticed after 2.5 heartbeats. Time is the wall clock's, checked every second: timers stand still
 *   while a laptop sleeps, so a dead connection or an attempt that is due is noticed as soon as it wakes up.
 *
 * In a page, `keepAlive` of page-lifecycle.js closes the connection while the page is frozen or in the back/forward
 * cache; `SharedStream` of shared-stream.js has the same options and one connection for all tabs. All three are
 * documented in docs/receiving-alerts.md.
 */

import { Acknowledgements } from "./acknowledgements.js";
import { backoff, closePolicy } from "./close-policy.js";
import { furthest, marked, seqOf } from "./cursor.js";
import { Sightings } from "./sightings.js";
import { openEventStream, openLongPoll, openWebSocket } from "./transports.js";

/** @import { ErrorFrame, EventFrame, Frame, GapFrame, PresenceFrame, ResetFrame, Severity, WelcomeFrame } from "./wire-types.js" */
/** @import { Transport, TransportName } from "./transports.js" */
/** @import { ClosePolicy } from "./close-policy.js" */
/** @typedef {"signed-out" | "connecting" | "catching-up" | "live" | "waiting"} State */

/**
 * @typedef {object} Status
 * @property {State} state
 * @property {string | null} reason   Why the last connection ended: the server's close reason, or `connection_lost`,
 *   `server_silent`, `unreadable_frame`, `message_too_big`, `token_unavailable`. Null while live and after `stop()`.
 * @property {string} [hint]  What the server says more about its reason, such as the parameter that it refuses.
 * @property {number | null} since    When the stream was lost, in ms since the epoch; null while it is live.
 * @property {TransportName} transport                The transport in use, or to be tried.
 * @property {number | null} retryAt  When the next attempt starts, in ms since the epoch; only in `waiting`.
 */

/**
 * @typedef {object} StreamOptions
 * @property {string} url  `ws://` or `wss://`, without a query.
 * @property {(refused: string | null) => string | null | Promise<string | null>} token
 *   Returns the token for the next connection. `refused` is null, or why the server refused the last token: then only a
 *   fresh one helps. Null, or the same token again, ends in `signed-out`; `start()` then goes on from the cursor.
 * @property {string | number} [after]  A cursor, a seq, or `latest`; absent: where `consumer`, or this filter, resumes.
 * @property {string} [consumer]  A name of this program's own, by which it resumes: 1 to 100 of a-z, A-Z, 0-9, dot, _ and -.
 * @property {string[]} [topics]
 * @property {Severity} [minSeverity]
 * @property {"shown" | "manual"} [acknowledge]  When an event is acknowledged: `shown` (the default) once `onEvent` returned.
 * @property {(status: Status) => void} [onState]
 * @property {(frame: WelcomeFrame) => void} [onWelcome]
 * @property {(frame: EventFrame) => void} [onEvent]
 * @property {(frame: GapFrame) => void} [onGap]
 * @property {(frame: ResetFrame) => void} [onReset]
 * @property {(frame: PresenceFrame) => void} [onPresence]
 * @property {(frame: ErrorFrame) => void} [onError]
 * @property {(cursor: string) => void} [onCursor]  The cursor moved: nothing up to it is outstanding.
 * @property {(alerts: string[]) => void} [onSeenReported]  These sightings were sent, and the connection lived on.
 * @property {(seq: number) => void} [onDuplicate]  An event came twice or out of order, and was not passed on.
 */

const CHECK_INTERVAL_MS = 1_000;
const WELCOME_TIMEOUT_MS = 15_000;
const SILENT_HEARTBEATS = 2.5;
const STABLE_MS = 2_000;
const BUFFERED_RESPONSE_TIMEOUT_MS = 5_000;
const RETRY_WEBSOCKET_MS = 300_000;
const TRANSPORTS = { websocket: openWebSocket, sse: openEventStream, longpoll: openLongPoll };
const FALLBACKS = /** @type {const} */ ({ websocket: "sse", sse: "longpoll", longpoll: null });

/** The status before the first `start()`. @type {Readonly<Status>} */
export const SIGNED_OUT = Object.freeze({
  state: "signed-out",
  reason: null,
  since: null,
  transport: "websocket",
  retryAt: null,
});

export class StreamClient {
  /** @type {StreamOptions} */ #options;
  /** @type {Status} */ #status = SIGNED_OUT;
  /** @type {Transport | null} */ #transport = null;
  /** @type {TransportName} */ #transportName = "websocket";
  /** @type {string | null} */ #connection = null;
  /** @type {string | null} */ #resumedConnection = null; // Long polls find theirs by themselves.
  #isWelcomed = false;
  #isOpen = false; // A streamed answer has begun.

  /** @type {string | null} */ #token = null;
  #hint = { reason: "", text: "" }; // What the server said more about the reason that it gave last.
  #attempt = 0; // Numbers the attempts: a token that arrives for an earlier one is ignored.

  #failures = 0;
  #liveAt = Infinity;
  /** @type {number | null} */ #lostAt = null;
  #lastReceivedAt = 0;
  #silenceLimit = WELCOME_TIMEOUT_MS;
  /** @type {string | null} */ #cursor;
  #acks = new Acknowledgements((seq) =>
    this.#transport && this.#connection ? this.#transport.ack(this.#connection, seq) : false,
  );

  #sightings = new Sightings(
    (alerts) => this.#transport?.seen(alerts) ?? false,
    (alerts) => this.#options.onSeenReported?.(alerts),
  );

  /** @type {ReturnType<typeof setTimeout> | undefined} */ #checkTimer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #webSocketTimer;

  /** @param {StreamOptions} options */
  constructor(options) {
    this.#options = options;
    this.#cursor = startOf(options.after);
  }

  /** @type {Status} */
  get status() {
    return this.#status;
  }

  /** Everything up to here was passed on: a later client can start from it. Null until the server has said where. */
  get cursor() {
    return this.#cursor;
  }

  /** Connects, or goes on from the cursor after `signed-out`; does nothing in any other state. */
  start() {
    if (this.#status.state !== "signed-out") return;
    this.#failures = 0;
    this.#connect(null);
  }

  /** Acknowledges what was shown, and disconnects. */
  stop() {
    this.flush();
    this.#end(null);
  }

  /** Disconnects until `wake()`: the page is about to be frozen. */
  pause() {
    if (this.#status.state === "signed-out") return;
    this.flush();
    this.#disconnect();
    this.#lostAt ??= Date.now();
    this.#setState("waiting");
  }

  /** The machine woke up or is online again: retries now, or checks now whether the server is silent. */
  wake() {
    if (this.#status.state === "waiting") this.#connect(null);
    else if (this.#transport) this.#checkLiveness();
  }

  /** Acknowledges everything up to `seq`, as far as it was passed on. @param {number} seq */
  acknowledge(seq) {
    this.#acks.acknowledge(seq);
  }

  /** Reports alerts that somebody saw: each was in view for a second. @param {Iterable<string>} alerts  Their ids. */
  seen(alerts) {
    this.#sightings.add(alerts);
  }

  /** Sends the acknowledgement and the sightings that are due, without waiting for their timers. */
  flush() {
    this.#acks.flush();
    if (this.#isWelcomed) this.#sightings.flush();
  }

  /** @param {string | null} refused */
  async #connect(refused) {
    this.#disconnect();
    const attempt = this.#attempt;
    this.#setState("connecting");
    let token;
    try {
      token = await this.#options.token(refused);
    } catch {
      if (attempt === this.#attempt) this.#onLost("token_unavailable", "retry");
      return;
    }
    if (attempt !== this.#attempt) return;
    if (!token || (refused && token === this.#token)) return this.#end(refused ?? "token_missing");
    this.#token = token;
    // A fresh token was refused too: without a wait, the client would go back and forth between server and provider.
    if (refused && this.#failures > 1) this.#retryLater(refused, "retry");
    else this.#open(token, this.#transportName);
  }

  /** @param {string} token @param {TransportName} transport */
  #open(token, transport) {
    this.#transportName = transport;
    this.#isWelcomed = this.#isOpen = false;
    this.#silenceLimit = WELCOME_TIMEOUT_MS;
    this.#lastReceivedAt = Date.now();
    const options = { url: this.#options.url, query: this.#query(), token, resumed: this.#resumedConnection };
    try {
      this.#transport = TRANSPORTS[transport](options, {
        onOpen: () => this.#onOpen(),
        onFrame: (text) => this.#onFrame(text),
        onClose: (code, reason, hint) => this.#onClose(code, reason, hint),
      });
    } catch {
      return this.#end("token_invalid"); // It has characters that are allowed in no subprotocol, nor in a JWT.
    }
    this.#connection = null;
    this.#checkLiveness();
  }

  #query() {
    const { after, topics, minSeverity, consumer } = this.#options;
    const query = new URLSearchParams();
    const start = this.#cursor ?? after;
    if (start !== undefined) query.set("after", String(start));
    for (const topic of topics ?? []) query.append("topic", topic);
    if (minSeverity) query.set("min_severity", minSeverity);
    if (consumer) query.set("consumer", consumer);
    return query;
  }

  /** A streamed answer has begun: unless a proxy holds it back, the welcome frame follows at once. */
  #onOpen() {
    this.#isOpen = true;
    this.#silenceLimit = BUFFERED_RESPONSE_TIMEOUT_MS;
    this.#lastReceivedAt = Date.now();
    this.#checkLiveness();
  }

  /** @param {number} code @param {string} reason @param {string} hint */
  #onClose(code, reason, hint) {
    this.#hint = { reason, text: hint };
    if (code === 1006 && !reason && !this.#isWelcomed) return this.#fallBack("connection_lost");
    this.#onLost(reason || (code === 1009 ? "message_too_big" : "connection_lost"), closePolicy(code, reason));
  }

  /** This transport has brought nothing: tries the next one. @param {string} reason */
  #fallBack(reason) {
    const transport = this.#transportName === "sse" && !this.#isOpen ? null : FALLBACKS[this.#transportName];
    this.#transportName = "websocket";
    if (!transport || !this.#token) return this.#onLost(reason, "retry");
    this.#disconnect();
    this.#open(this.#token, transport);
  }

  /** Changes back to the WebSocket once one can be opened; until then the stream goes on. */
  #tryWebSocket() {
    const { url, consumer } = this.#options;
    const token = this.#token ?? "";
    const attempt = this.#attempt;
    const probe = openWebSocket(
      { url, query: new URLSearchParams({ after: "latest", ...(consumer && { consumer }) }), token, resumed: null },
      {
        onOpen: () => {},
        onFrame: () => {
          probe.close();
          if (attempt !== this.#attempt) return;
          this.flush();
          this.#disconnect();
          this.#open(token, "websocket");
        },
        onClose: () => {
          if (attempt === this.#attempt) this.#tryWebSocketLater();
        },
      },
    );
  }

  #tryWebSocketLater() {
    clearTimeout(this.#webSocketTimer);
    this.#webSocketTimer = setTimeout(() => this.#tryWebSocket(), RETRY_WEBSOCKET_MS);
  }

  /** @param {string} data */
  #onFrame(data) {
    this.#lastReceivedAt = Date.now();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return this.#onLost("unreadable_frame", "retry");
    }
    this.#dispatch(frame);
  }

  /** A type that is not listed belongs to a newer server and is ignored. @param {Frame} frame */
  #dispatch(frame) {
    switch (frame.type) {
      case "welcome":
        return this.#onWelcome(frame);
      case "event":
        return this.#onEvent(frame);
      case "caught_up":
        this.#sightings.settle(); // A long poll that brings nothing ends with this frame.
        this.#advance(frame.cursor);
        this.#liveAt = Math.min(this.#liveAt, Date.now());
        this.#lostAt = null;
        return this.#setState("live", { reason: null });
      case "heartbeat":
        this.#acks.schedule();
        this.#sightings.settle();
        return this.#advance(frame.cursor);
      case "gap":
        return this.#onGap(frame);
      case "reset":
        return this.#onReset(frame);
      case "presence":
        return this.#options.onPresence?.(frame);
      case "error":
        return this.#options.onError?.(frame);
    }
  }

  /** @param {WelcomeFrame} frame */
  #onWelcome(frame) {
    this.#isWelcomed = true;
    this.#connection = frame.connection;
    this.#resumedConnection = this.#transportName === "longpoll" ? null : frame.connection;
    if (this.#transportName !== "websocket") this.#tryWebSocketLater();
    this.#silenceLimit = SILENT_HEARTBEATS * frame.heartbeat_seconds * 1000;
    this.#checkLiveness();
    if (frame.cursor === this.#cursor) this.#acks.resend();
    else this.#acks.reset();
    this.#setState("catching-up");
    this.#options.onWelcome?.(frame);
    this.#advance(marked(this.#cursor, frame.cursor));
    this.#acks.schedule();
    this.#sightings.resend();
  }

  /** @param {EventFrame} frame */
  #onEvent(frame) {
    if (frame.seq <= seqOf(this.#cursor)) return this.#options.onDuplicate?.(frame.seq);
    this.#options.onEvent?.(frame);
    this.#acks.received(frame.seq);
    this.#advance(frame.cursor);
    if (this.#options.acknowledge !== "manual") this.acknowledge(frame.seq);
  }

  /** @param {GapFrame} frame */
  #onGap(frame) {
    this.#cursor = furthest(this.#cursor, String(frame.to));
    this.#options.onGap?.(frame);
    this.#options.onCursor?.(this.#cursor);
  }

  /** @param {ResetFrame} frame */
  #onReset(frame) {
    this.#cursor = frame.cursor;
    this.#acks.reset();
    this.#options.onReset?.(frame);
    this.#options.onCursor?.(this.#cursor);
  }

  /** @param {string} cursor */
  #advance(cursor) {
    this.#cursor = furthest(this.#cursor, cursor);
    this.#options.onCursor?.(this.#cursor);
  }

  /** Checks, now and every second, whether the server is silent or the next attempt is due. */
  #checkLiveness() {
    clearTimeout(this.#checkTimer);
    const now = Date.now();
    const { retryAt } = this.#status;
    if (retryAt !== null && now >= retryAt) return void this.#connect(null);
    this.#lastReceivedAt = Math.min(this.#lastReceivedAt, now); // A clock that was set back must not hide a silence.
    if (this.#transport && now - this.#lastReceivedAt >= this.#silenceLimit) {
      return this.#isWelcomed ? this.#onLost("server_silent", "retry") : this.#fallBack("server_silent");
    }
    const delay = retryAt === null ? CHECK_INTERVAL_MS : Math.min(CHECK_INTERVAL_MS, retryAt - now);
    this.#checkTimer = setTimeout(() => this.#checkLiveness(), delay);
  }

  /** @param {string} reason @param {ClosePolicy} policy */
  #onLost(reason, policy) {
    this.#failures = Date.now() - this.#liveAt > STABLE_MS ? 1 : this.#failures + 1;
    this.#lostAt ??= Date.now();
    this.#status = { ...this.#status, reason };
    if (policy === "stop") this.#end(reason);
    else if (policy === "refresh") this.#connect(reason);
    else this.#retryLater(reason, policy);
  }

  /** @param {string} reason @param {"retry" | "retry_later"} policy */
  #retryLater(reason, policy) {
    this.#disconnect();
    const delay = backoff(this.#failures, policy);
    this.#setState("waiting", { reason, retryAt: Date.now() + delay });
    this.#checkLiveness();
  }

  /** @param {string | null} reason */
  #end(reason) {
    this.#disconnect();
    this.#setState("signed-out", { reason });
  }

  /** Closes the transport without waiting for its end, which takes minutes on a dead network. */
  #disconnect() {
    this.#attempt += 1;
    this.#liveAt = Infinity;
    clearTimeout(this.#checkTimer);
    clearTimeout(this.#webSocketTimer);
    this.#acks.pause();
    this.#sightings.pause();
    this.#transport?.close();
    this.#transport = null;
  }

  /** @param {State} state @param {Partial<Status>} [more] */
  #setState(state, more) {
    const { reason } = this.#status;
    this.#status = { ...SIGNED_OUT, reason, since: this.#lostAt, transport: this.#transportName, ...more, state };
    if (this.#hint.text && this.#hint.reason === this.#status.reason) this.#status.hint = this.#hint.text;
    this.#options.onState?.(this.#status);
  }
}

/** The cursor of an option `after`; null: the server says where the stream starts. @param {string | number | undefined} after */
export function startOf(after) {
  return after === undefined || after === "latest" ? null : String(after);
}
