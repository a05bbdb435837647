/**
 * A server of the stream that says what a test has it say, on real sockets. It is a fake because the cases that it is for
 * (a frame cut in two, an event out of order, silence, a refusal without end) are those that the real one does not make;
 * what the real one does is tested in Chromium.
 */

import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // RFC 6455, section 1.3

/** The cursor of a position in one of two histories of the log, `a` and `b`. */
export const at = (seq, history = "a") => (seq ? `${seq}-${history.repeat(8)}` : "0");

/** An event of one of the histories. */
export const eventOf = (seq, history = "a") => ({
  ...{ type: "event", seq, cursor: at(seq, history), id: `${history.repeat(8)}00000000` },
  ...{ kind: "alert.created", at: "", actor: "é", alert: { id: `${history}${seq}` } },
});

/** What happens, in order, to be waited for. */
export class Queue {
  #items = [];
  #waiting = [];

  push(item) {
    const taker = this.#waiting.shift();
    if (taker) taker(item);
    else this.#items.push(item);
  }

  get size() {
    return this.#items.length;
  }

  next() {
    if (this.#items.length) return Promise.resolve(this.#items.shift());
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}

/** One WebSocket. Frames of a client are short and masked; ours are not masked. */
class Connection {
  received = new Queue();
  #socket;
  #buffer = Buffer.alloc(0);

  constructor(request, socket) {
    this.url = new URL(request.url, "http://localhost");
    this.token = request.headers["sec-websocket-protocol"].split(", ")[1].slice("bearer.".length);
    this.ended = once(socket, "close");
    this.#socket = socket;
    socket.on("data", (data) => this.#read(data));
    socket.on("error", () => {}); // It is cut on purpose.
  }

  get after() {
    return this.url.searchParams.get("after");
  }

  send(frame) {
    this.sendText(JSON.stringify(frame));
  }

  sendText(text) {
    this.#write(0x1, Buffer.from(text));
  }

  /** Says what a stream says first: who it is for, the events, and that this is all. */
  welcome({ head = 0, after = head, events = [], heartbeat = 15, ...more } = {}) {
    this.greet({ head, after, heartbeat_seconds: heartbeat, ...more });
    for (const seq of events) this.event(seq);
    this.caughtUp(Math.max(head, ...events));
  }

  greet({ head = 0, after = head, cursor = at(after), ...more } = {}) {
    const welcome = { connection: "c1", recipient: "alice", head, after, cursor, heartbeat_seconds: 15, ...more };
    this.send({ type: "welcome", ...welcome });
  }

  event(seq, history) {
    this.send(eventOf(seq, history));
  }

  caughtUp(seq, history) {
    this.send({ type: "caught_up", seq, cursor: at(seq, history) });
  }

  heartbeat(seq, history) {
    this.send({ type: "heartbeat", seq, cursor: at(seq, history), at: "" });
  }

  reset(after, cursor) {
    this.send({ type: "reset", after, cursor });
  }

  close(code, reason) {
    const payload = Buffer.alloc(2);
    payload.writeUInt16BE(code);
    this.#write(0x8, Buffer.concat([payload, Buffer.from(reason)]));
    this.#socket.end();
  }

  cut() {
    this.#socket.destroy();
  }

  #write(opcode, payload) {
    const long = payload.length > 125;
    const head = Buffer.alloc(long ? 4 : 2);
    head[0] = 0x80 | opcode;
    head[1] = long ? 126 : payload.length;
    if (long) head.writeUInt16BE(payload.length, 2);
    this.#socket.write(Buffer.concat([head, payload]));
  }

  #read(data) {
    this.#buffer = Buffer.concat([this.#buffer, data]);
    while (this.#buffer.length >= 6 + (this.#buffer[1] & 0x7f)) {
      const length = this.#buffer[1] & 0x7f;
      const mask = this.#buffer.subarray(2, 6);
      const payload = Buffer.from(this.#buffer.subarray(6, 6 + length).map((byte, index) => byte ^ mask[index % 4]));
      const opcode = this.#buffer[0] & 0x0f;
      this.#buffer = this.#buffer.subarray(6 + length);
      if (opcode === 0x1) this.received.push(JSON.parse(payload.toString()));
      if (opcode === 0x8) this.#socket.end();
    }
  }
}

/** Listens until the test ends. `requests` are those of plain HTTP, to be answered by the test. */
export class Server {
  connections = new Queue();
  requests = new Queue();
  blocksWebSockets = false;

  static async start(test) {
    const server = new Server();
    const http = createServer((request, response) => {
      request.on("error", () => {}); // The client closed it.
      server.requests.push({ request, response });
    });
    const sockets = new Set();
    http.on("connection", (socket) => sockets.add(socket));
    http.on("upgrade", (request, socket) => server.#upgrade(request, socket));
    http.listen(0, "127.0.0.1");
    await once(http, "listening");
    server.url = `ws://127.0.0.1:${http.address().port}/v1/ws`;
    test.after(() => {
      http.close();
      for (const socket of sockets) socket.destroy();
    });
    return server;
  }

  #upgrade(request, socket) {
    if (this.blocksWebSockets) return socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    const key = createHash("sha1")
      .update(request.headers["sec-websocket-key"] + GUID)
      .digest("base64");
    socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        `Sec-WebSocket-Accept: ${key}\r\nSec-WebSocket-Protocol: tocsin.v1\r\n\r\n`,
    );
    this.connections.push(new Connection(request, socket));
  }
}
