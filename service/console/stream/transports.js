/**
 * The ways by which the stream comes: a WebSocket, server-sent events, long polls. What comes is the same, so whoever
 * listens does not care which it is. The two that are plain HTTP are for networks that block WebSockets, and the last for
 * proxies that hold back an answer until it is complete. Both send the token in a header: an `EventSource` could only
 * put it into the address, where it would reach logs.
 */

/** @typedef {"websocket" | "sse" | "longpoll"} TransportName */

/**
 * @typedef {object} TransportOptions
 * @property {string} url         `ws://` or `wss://`, the address of the WebSocket.
 * @property {URLSearchParams} query
 * @property {string} token
 * @property {string | null} resumed  The connection that this goes on from.
 */

/**
 * @typedef {object} TransportListener
 * @property {() => void} onOpen  The server answered, though nothing has come yet.
 * @property {(text: string) => void} onFrame  A frame.
 * @property {(code: number, reason: string) => void} onClose  It is over. 1006 without a reason: the network did it.
 */

/**
 * @typedef {object} Transport
 * @property {(connection: string, seq: number) => boolean | Promise<boolean>} ack  Whether the ack was sent.
 * @property {() => void} close  Lets go at once; the listener hears nothing more.
 */

const POLL_SECONDS = 25;

/** @param {TransportOptions} start @param {TransportListener} listener @returns {Transport} */
export function openWebSocket({ url, query, token }, listener) {
  const socket = new WebSocket(`${url}?${query}`, ["tocsin.v1", `bearer.${token}`]);
  let over = false;
  socket.onmessage = ({ data }) => listener.onFrame(data);
  socket.onclose = ({ code, reason }) => end(code, reason);
  // A browser says the same again in `close`; Node 20 does not, where no WebSocket could be opened.
  socket.onerror = () => socket.readyState !== WebSocket.OPEN && !socket.protocol && end(1006, "");

  /** @param {number} code @param {string} reason */
  function end(code, reason) {
    if (!over) listener.onClose(code, reason);
    over = true;
  }

  return {
    ack(_connection, seq) {
      if (socket.readyState !== WebSocket.OPEN) return false;
      socket.send(JSON.stringify({ type: "ack", seq }));
      return true;
    },
    close() {
      over = true;
      socket.onmessage = null;
      socket.close(1000);
    },
  };
}

/** @param {TransportOptions} start @param {TransportListener} listener @returns {Transport} */
export function openEventStream(start, listener) {
  return openHttp(start, listener, async (get) => {
    const query = new URLSearchParams(start.query);
    if (start.resumed && query.has("after")) query.set("connection", start.resumed);
    const response = await get(query, "text/event-stream");
    listener.onOpen();
    const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
    const decoder = new TextDecoder();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const messages = (text + decoder.decode(value, { stream: true })).split("\n\n");
      text = messages.pop() ?? "";
      for (const message of messages) read(message);
    }
  });

  /** @param {string} message */
  function read(message) {
    const data = message
      .split("\n")
      .find((line) => line.startsWith("data: "))
      ?.slice("data: ".length);
    if (!data) return;
    if (data.startsWith('{"type":"close",')) {
      const { code, reason } = JSON.parse(data);
      throw new StreamClosed(code, reason);
    }
    listener.onFrame(data);
  }
}

/** @param {TransportOptions} start @param {TransportListener} listener @returns {Transport} */
export function openLongPoll(start, listener) {
  return openHttp(start, listener, async (get) => {
    const query = new URLSearchParams(start.query);
    if (start.resumed && query.has("after")) query.set("connection", start.resumed);
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

/** What a stream would have sent. The next poll acknowledges it. @param {any} answer */
function framesOf({ welcome, gap, events, next, caught_up: caughtUp }) {
  const isNews = events.length > 0 && !welcome;
  const end = { type: caughtUp && !isNews ? "caught_up" : "heartbeat", seq: next };
  return [welcome, gap, ...events, end].filter(Boolean);
}

class StreamClosed extends Error {
  /** @param {number} code @param {string} reason */
  constructor(code, reason) {
    super(reason);
    this.code = code;
    this.reason = reason;
  }
}

/**
 * @param {TransportOptions} start
 * @param {TransportListener} listener
 * @param {(get: (query: URLSearchParams, accept: string) => Promise<Response>) => Promise<void>} run
 * @returns {Transport}
 */
function openHttp({ url, token }, listener, run) {
  const address = url.replace(/^ws/, "http").replace(/\/ws$/, "/events");
  const headers = { Authorization: `Bearer ${token}` };
  const abort = new AbortController();
  run(get).then(
    () => end(1006, ""),
    (error) => (error instanceof StreamClosed ? end(error.code, error.reason) : end(1006, "")),
  );

  /** @param {URLSearchParams} query @param {string} accept */
  async function get(query, accept) {
    const options = {
      headers: { ...headers, Accept: accept },
      signal: abort.signal,
      cache: /** @type {const} */ ("no-store"),
    };
    const response = await fetch(`${address}?${query}`, options);
    if (response.ok) return response;
    const problem = await response.json().catch(() => ({})); // A proxy's own page is no problem document.
    throw new StreamClosed(problem.code && response.status < 500 ? 1008 : 1006, problem.code ?? "");
  }

  /** @param {number} code @param {string} reason */
  function end(code, reason) {
    if (!abort.signal.aborted) listener.onClose(code, reason);
  }

  return {
    async ack(connection, seq) {
      const body = JSON.stringify({ connection, seq });
      const options = { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body };
      try {
        const response = await fetch(`${address}/ack`, { ...options, keepalive: true }); // The page may be going.
        return response.ok && (await response.json()).seq >= seq;
      } catch {
        return false;
      }
    },
    close: () => abort.abort(),
  };
}
