/**
 * The transports of the stream: a WebSocket, server-sent events, long polls. All bring the same frames. The two over
 * plain HTTP are for networks that block WebSockets, and long polls for proxies that hold back an answer until it is
 * complete.
 */

import { seqOf } from "./cursor.js";
import { openStream, readEvents, StreamClosed } from "./http-stream.js";

/** Named as in the ledger. @typedef {"websocket" | "sse" | "longpoll"} TransportName */

/**
 * @typedef {object} TransportOptions
 * @property {string} url         `ws://` or `wss://`, the address of the WebSocket.
 * @property {URLSearchParams} query
 * @property {string} token
 * @property {string | null} resumed  The connection that this one resumes.
 */

/**
 * @typedef {object} TransportListener
 * @property {() => void} onOpen  The server answered; no frame has arrived yet.
 * @property {(frame: string) => void} onFrame
 * @property {(code: number, reason: string, hint: string) => void} onClose  1006 without a reason: the network failed.
 *   The hint is what the server says more about its reason, for people; it may be empty.
 */

/**
 * @typedef {object} Transport
 * @property {(connection: string, seq: number) => boolean | Promise<boolean>} ack  Returns whether the ack was sent.
 * @property {(alerts: string[]) => boolean | Promise<boolean>} seen  Returns whether they were sent.
 * @property {() => void} close  Closes at once; the listener is not called any more.
 */

const POLL_SECONDS = 25;

/** @param {TransportOptions} options @param {TransportListener} listener @returns {Transport} */
export function openWebSocket({ url, query, token }, listener) {
  const socket = new WebSocket(`${url}?${query}`, ["tocsin.v1", `bearer.${token}`]);
  let isClosed = false;
  socket.onmessage = ({ data }) => listener.onFrame(data);
  socket.onclose = ({ code, reason }) => {
    const [name] = reason.split(":");
    onClose(code, name, reason.slice(name.length + 1).trim());
  };
  // Browsers follow this with `close`; Node 20 does not where the WebSocket could not be opened.
  socket.onerror = () => socket.readyState !== WebSocket.OPEN && !socket.protocol && onClose(1006, "", "");

  /** @param {number} code @param {string} reason @param {string} hint */
  function onClose(code, reason, hint) {
    if (!isClosed) listener.onClose(code, reason, hint);
    isClosed = true;
  }

  /** @param {object} message  Returns whether it was sent. */
  function send(message) {
    if (socket.readyState !== WebSocket.OPEN) return false;
    socket.send(JSON.stringify(message));
    return true;
  }

  return {
    ack: (_connection, seq) => send({ type: "ack", seq }),
    seen: (alerts) => send({ type: "seen", alerts }),
    close() {
      isClosed = true;
      socket.onmessage = null;
      socket.close(1000);
    },
  };
}

/** @param {TransportOptions} options @param {TransportListener} listener @returns {Transport} */
export function openEventStream(options, listener) {
  return openHttp(options, listener, async (get, query) => {
    const response = await get(query, "text/event-stream");
    listener.onOpen();
    for await (const data of readEvents(response)) listener.onFrame(data);
  });
}

/** @param {TransportOptions} options @param {TransportListener} listener @returns {Transport} */
export function openLongPoll(options, listener) {
  return openHttp(options, listener, async (get, query) => {
    let wait = 0;
    for (;;) {
      query.set("wait", String(wait));
      const answer = await (await get(query, "application/json")).json();
      if (answer.welcome) wait = Math.min(POLL_SECONDS, answer.welcome.heartbeat_seconds);
      for (const frame of framesOf(answer)) listener.onFrame(JSON.stringify(frame));
      if (answer.closed) throw new StreamClosed(answer.closed.code, answer.closed.reason);
      query.set("after", answer.next);
      query.set("connection", answer.connection);
    }
  });
}

/** The frames that a stream would have sent. The next poll acknowledges them. @param {any} answer */
function framesOf({ welcome, reset, gap, events, next, caught_up: caughtUp }) {
  const isCaughtUp = caughtUp && (welcome || events.length === 0);
  const end = { type: isCaughtUp ? "caught_up" : "heartbeat", seq: seqOf(next), cursor: next };
  return [welcome, reset, gap, ...events, end].filter(Boolean);
}

/**
 * @param {TransportOptions} options
 * @param {TransportListener} listener
 * @param {(get: (query: URLSearchParams, accept: string) => Promise<Response>, query: URLSearchParams) => Promise<void>} run
 * @returns {Transport}
 */
function openHttp({ url, query: original, token, resumed }, listener, run) {
  const address = url.replace(/^ws/, "http").replace(/\/ws$/, "/events");
  const query = new URLSearchParams(original);
  if (resumed && query.has("after")) query.set("connection", resumed);
  const abort = new AbortController();
  const { signal } = abort;
  run((query, accept) => openStream(`${address}?${query}`, { token, accept, signal }), query).then(
    () => onClose(1006),
    (error) => (error instanceof StreamClosed ? onClose(error.code, error.reason, error.hint) : onClose(1006)),
  );

  /** @param {number} code */
  function onClose(code, reason = "", hint = "") {
    if (!signal.aborted) listener.onClose(code, reason, hint);
  }

  /** @param {"ack" | "seen"} name @param {object} content */
  function post(name, content) {
    const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
    // `keepalive`: the page may be closing.
    return fetch(`${address}/${name}`, { method: "POST", headers, body: JSON.stringify(content), keepalive: true });
  }

  return {
    async ack(connection, seq) {
      try {
        const response = await post("ack", { connection, seq });
        return response.ok && (await response.json()).seq >= seq;
      } catch {
        return false;
      }
    },
    async seen(alerts) {
      try {
        return (await post("seen", { alerts })).ok;
      } catch {
        return false;
      }
    },
    close: () => abort.abort(),
  };
}
