import assert from "node:assert/strict";
import { once } from "node:events";
import test from "node:test";

import { StreamClient } from "../../../service/console/stream/stream-client.js";
import { at, eventOf, Queue, Server } from "./server.mjs";

const HOUR = 3_600_000;

/** A client of the test's server, and all that it tells. Waits of the back-off are over at once. */
function clientOf(t, server, options = {}) {
  t.mock.method(Math, "random", () => 0);
  const calls = { states: new Queue(), events: [], duplicates: [], cursors: [], gaps: [], resets: [], refused: [] };
  const client = new StreamClient({
    url: server.url,
    after: 0,
    token: (refused) => void calls.refused.push(refused) || "t1",
    onState: (status) => calls.states.push(status),
    onEvent: ({ seq }) => calls.events.push(seq),
    onDuplicate: (seq) => calls.duplicates.push(seq),
    onCursor: (cursor) => calls.cursors.push(cursor),
    onGap: (frame) => calls.gaps.push(frame),
    onReset: (frame) => calls.resets.push(frame),
    ...options,
  });
  t.after(() => client.stop());
  client.start();
  return { client, ...calls };
}

/** Waits until the client says that it is in a state, and returns what else it said. */
async function until(states, state) {
  for (;;) {
    const status = await states.next();
    if (status.state === state) return status;
  }
}

/** A clock that a test moves, as a laptop's moves while it sleeps and its timers stand still. */
function clockOf(t) {
  const { now } = Date;
  let shift = 0;
  t.mock.method(Date, "now", () => now() + shift);
  return { move: (ms) => (shift += ms) };
}

const sse = (frame) => `data: ${JSON.stringify(frame)}\n\n`;
const WELCOME = {
  ...{ type: "welcome", connection: "c7", recipient: "alice", head: 0, after: 0, cursor: "0" },
  heartbeat_seconds: 15,
};

// The cursor.

test("it connects with its token, says each state, and passes on what comes", async (t) => {
  const server = await Server.start(t);
  const welcomes = [];
  const { states, events } = clientOf(t, server, {
    after: 3,
    topics: ["a", "b.*"],
    minSeverity: "error",
    onWelcome: (w) => welcomes.push(w),
  });
  const connection = await server.connections.next();
  assert.equal(connection.token, "t1");
  assert.equal(connection.url.search, "?after=3&topic=a&topic=b.*&min_severity=error");
  connection.welcome({ head: 5, after: 3, events: [4, 5] });
  assert.equal((await states.next()).state, "connecting");
  assert.equal((await states.next()).state, "catching-up");
  const live = await states.next();
  assert.deepEqual(live, { state: "live", reason: null, since: null, transport: "websocket", retryAt: null });
  assert.deepEqual(events, [4, 5]);
  assert.equal(welcomes[0].recipient, "alice");
});

test("after any loss it resumes after its cursor, and what comes twice or late is left out", async (t) => {
  const server = await Server.start(t);
  const { client, states, events, duplicates } = clientOf(t, server);
  const first = await server.connections.next();
  first.welcome({ events: [1, 2] });
  first.event(2);
  first.event(5);
  first.event(4);
  first.heartbeat(9);
  await until(states, "live");
  await first.received.next();
  first.cut();
  assert.equal((await until(states, "waiting")).reason, "connection_lost");
  const second = await server.connections.next();
  assert.equal(second.after, at(9));
  second.welcome({ head: 12, after: 9, events: [5, 9, 10, 12] });
  await until(states, "live");
  assert.deepEqual(events, [1, 2, 5, 10, 12]);
  assert.deepEqual(duplicates, [2, 4, 5, 9]);
  assert.equal(client.cursor, at(12));
});

test("without `after` the server says where it starts, and it resumes from there", async (t) => {
  const server = await Server.start(t);
  const { states } = clientOf(t, server, { after: undefined });
  const first = await server.connections.next();
  assert.equal(first.after, null);
  first.welcome({ head: 7, after: 7 });
  await until(states, "live");
  first.cut();
  assert.equal((await server.connections.next()).after, at(7));
});

test("a purged gap moves the cursor over it", async (t) => {
  const server = await Server.start(t);
  const { client, states, events, gaps, cursors } = clientOf(t, server, { after: at(10) });
  const first = await server.connections.next();
  first.greet({ head: 50, after: 10 });
  first.send({ type: "gap", from: 11, to: 40, reason: "purged" });
  first.event(41);
  first.caughtUp(50);
  await until(states, "live");
  assert.deepEqual([events, gaps.length, client.cursor], [[41], 1, at(50)]);
  assert.deepEqual(cursors, [at(10), "40", at(41), at(50)]);
});

// Another history of the log.

for (const [what, after, start] of [
  ["what the log lost is named", 2, at(2)],
  ["nobody knows what the log lost", null, at(9, "b")],
]) {
  test(`where ${what}, the same seqs come again, and only they are acknowledged`, async (t) => {
    const server = await Server.start(t);
    const { client, states, events, duplicates, resets } = clientOf(t, server);
    const first = await server.connections.next();
    first.welcome({ events: [1, 2, 3, 4, 5] });
    await until(states, "live");
    assert.deepEqual(await first.received.next(), { type: "ack", seq: 5 });
    first.close(1012, "history_changed");
    assert.equal((await until(states, "waiting")).reason, "history_changed");
    const second = await server.connections.next();
    assert.equal(second.after, at(5));
    const seq = parseInt(start, 10);
    second.greet({ head: seq + 1, after: seq, cursor: start });
    second.reset(after, start);
    second.event(seq + 1, "b");
    second.event(seq + 2, "b");
    second.caughtUp(seq + 2, "b");
    await until(states, "live");
    assert.deepEqual(events, [1, 2, 3, 4, 5, seq + 1, seq + 2]);
    assert.deepEqual([duplicates, resets], [[], [{ type: "reset", after, cursor: start }]]);
    assert.equal(client.cursor, at(seq + 2, "b"));
    assert.deepEqual(await second.received.next(), { type: "ack", seq: seq + 2 });
    assert.equal(second.received.size, 0);
  });
}

test("no ack of what came before is sent on a connection that begins elsewhere", async (t) => {
  const server = await Server.start(t);
  const { client, states } = clientOf(t, server);
  const first = await server.connections.next();
  first.welcome({ events: [1, 2, 3] });
  await until(states, "live");
  assert.deepEqual(await first.received.next(), { type: "ack", seq: 3 });
  first.cut();
  const second = await server.connections.next();
  second.greet({ head: 9, after: 2 }); // The reset is on its way.
  await until(states, "catching-up");
  client.acknowledge(3);
  client.pause(); // It sends what is due, and closes.
  await second.ended;
  client.wake();
  const third = await server.connections.next();
  assert.equal(third.after, at(3)); // Or the server would not know that a reset is due.
  third.greet({ head: 9, after: 9, cursor: at(9, "b") });
  await until(states, "catching-up");
  client.pause();
  await third.ended;
  client.wake();
  const fourth = await server.connections.next();
  assert.equal(fourth.after, at(3));
  fourth.welcome({ head: 9, after: 3 });
  await until(states, "live");
  client.pause();
  await fourth.ended;
  assert.equal(second.received.size + third.received.size + fourth.received.size, 0);
});

test("a frame of a newer server is passed over, and one that cannot be read ends the connection", async (t) => {
  const server = await Server.start(t);
  const { states, events } = clientOf(t, server);
  const first = await server.connections.next();
  first.welcome({ events: [1] });
  first.send({ type: "of_next_year" });
  first.event(2);
  first.sendText("{");
  assert.equal((await until(states, "waiting")).reason, "unreadable_frame");
  (await server.connections.next()).welcome({ after: 2, events: [3] });
  await until(states, "live");
  assert.deepEqual(events, [1, 2, 3]);
});

// Acknowledging.

test("many events are acknowledged at once, after they were shown", async (t) => {
  const server = await Server.start(t);
  const { states, events } = clientOf(t, server);
  const connection = await server.connections.next();
  connection.welcome({ events: Array.from({ length: 200 }, (_, index) => index + 1) });
  await until(states, "live");
  assert.equal(events.length, 200);
  assert.equal(connection.received.size, 0);
  assert.deepEqual(await connection.received.next(), { type: "ack", seq: 200 });
  assert.equal(connection.received.size, 0);
});

test("leaving sends the acknowledgement that is due", async (t) => {
  const server = await Server.start(t);
  const { client, states } = clientOf(t, server);
  const connection = await server.connections.next();
  connection.welcome({ events: [1, 2] });
  await until(states, "live");
  client.stop();
  assert.equal((await until(states, "signed-out")).reason, null);
  assert.deepEqual(await connection.received.next(), { type: "ack", seq: 2 });
});

test("an acknowledgement that may have been lost with its connection is sent again", async (t) => {
  const server = await Server.start(t);
  const { states } = clientOf(t, server);
  const first = await server.connections.next();
  first.welcome({ events: [1, 2] });
  await until(states, "live");
  assert.deepEqual(await first.received.next(), { type: "ack", seq: 2 });
  first.cut();
  const second = await server.connections.next();
  second.welcome({ head: 2, after: 2 });
  assert.deepEqual(await second.received.next(), { type: "ack", seq: 2 });
});

test("by hand, nothing is acknowledged but what it is told to, and nothing that has not come", async (t) => {
  const server = await Server.start(t);
  const { client, states } = clientOf(t, server, { acknowledge: "manual" });
  const connection = await server.connections.next();
  connection.welcome({ events: [1, 2, 3] });
  await until(states, "live");
  client.flush();
  client.acknowledge(2);
  assert.deepEqual(await connection.received.next(), { type: "ack", seq: 2 });
  client.acknowledge(99);
  assert.deepEqual(await connection.received.next(), { type: "ack", seq: 3 });
});

test("in a hidden tab, where timers are late, the next event sends what is due", async (t) => {
  const server = await Server.start(t);
  const { setTimeout: real } = globalThis;
  t.mock.method(globalThis, "setTimeout", (what, ms) => real(what, ms === 250 ? 60_000 : ms));
  const clock = clockOf(t);
  const { states } = clientOf(t, server);
  const connection = await server.connections.next();
  connection.welcome({ events: [1] });
  await until(states, "live");
  clock.move(1_000);
  connection.event(2);
  assert.deepEqual(await connection.received.next(), { type: "ack", seq: 2 });
});

// Tokens, and what ends a stream.

test("an expired token is replaced, and the stream goes on from the cursor", async (t) => {
  const server = await Server.start(t);
  const asked = [];
  const { states } = clientOf(t, server, { token: async (refused) => asked.push(refused) && `t${asked.length}` });
  const first = await server.connections.next();
  first.welcome({ events: [1] });
  await until(states, "live");
  first.close(1008, "token_expired");
  const second = await server.connections.next();
  assert.deepEqual([second.token, second.after], ["t2", at(1)]);
  assert.deepEqual(asked, [null, "token_expired"]);
});

for (const [what, answer] of [
  ["the same token again", "t1"],
  ["no token", null],
]) {
  test(`with ${what} it signs out, and start() goes on from the cursor`, async (t) => {
    const server = await Server.start(t);
    let fresh = null;
    const { client, states } = clientOf(t, server, { token: (refused) => fresh ?? (refused ? answer : "t1") });
    const first = await server.connections.next();
    first.welcome({ events: [1] });
    await until(states, "live");
    first.close(1008, "token_revoked");
    assert.equal((await until(states, "signed-out")).reason, "token_revoked");
    fresh = "t2";
    client.start();
    const second = await server.connections.next();
    assert.deepEqual([second.token, second.after], ["t2", at(1)]);
  });
}

test("fresh tokens that are refused one after the other are not asked for without a pause", async (t) => {
  const server = await Server.start(t);
  let number = 0;
  const { states } = clientOf(t, server, { token: () => `t${++number}` });
  (await server.connections.next()).close(1008, "token_invalid");
  (await server.connections.next()).close(1008, "token_invalid");
  assert.equal((await until(states, "waiting")).reason, "token_invalid");
});

test("a provider that fails is asked again", async (t) => {
  const server = await Server.start(t);
  let asked = 0;
  const token = async () => {
    asked += 1;
    if (asked === 1) throw new Error("The provider is away.");
    return "t1";
  };
  const { states } = clientOf(t, server, { token });
  assert.equal((await until(states, "waiting")).reason, "token_unavailable");
  assert.equal((await server.connections.next()).token, "t1");
});

for (const [code, reason] of [
  [1008, "kicked"],
  [1008, "scope_missing"],
  [1009, "message_too_big"],
]) {
  test(`a refusal that no retry cures ends the stream: ${reason}`, async (t) => {
    const server = await Server.start(t);
    const { states } = clientOf(t, server);
    (await server.connections.next()).close(code, reason);
    assert.equal((await until(states, "signed-out")).reason, reason);
    assert.equal(server.connections.size, 0);
  });
}

test("what the server says more about a refusal reaches the developer, by each transport", async (t) => {
  const server = await Server.start(t);
  const first = clientOf(t, server);
  (await server.connections.next()).close(1008, "invalid_request: topic: no: 'Bad'");
  const { reason, hint } = await until(first.states, "signed-out");
  assert.deepEqual([reason, hint], ["invalid_request", "topic: no: 'Bad'"]);

  server.blocksWebSockets = true;
  const second = clientOf(t, server);
  const { response } = await server.requests.next();
  response.writeHead(422, { "Content-Type": "application/problem+json" });
  response.end(JSON.stringify({ code: "invalid_request", detail: "/query/topic: no: 'Bad'" }));
  const status = await until(second.states, "signed-out");
  assert.deepEqual([status.reason, status.hint], ["invalid_request", "/query/topic: no: 'Bad'"]);
});

test("what was said about one reason is not said about the next", async (t) => {
  const server = await Server.start(t);
  const { client, states } = clientOf(t, server);
  (await server.connections.next()).close(1012, "shutting_down: for an update");
  assert.equal((await until(states, "waiting")).hint, "for an update");
  (await server.connections.next()).welcome({ head: 0, after: 0, events: [] });
  assert.ok(!("hint" in (await until(states, "live"))));
  client.stop();
  assert.ok(!("hint" in (await until(states, "signed-out"))));
});

test("the wait grows with each failure, and says when it ends and since when", async (t) => {
  const server = await Server.start(t);
  const clock = clockOf(t);
  const { client, states } = clientOf(t, server);
  t.mock.method(Math, "random", () => 1);
  const waits = [];
  let since;
  for (let failure = 0; failure < 4; failure += 1) {
    (await server.connections.next()).close(1012, "shutting_down");
    const status = await until(states, "waiting");
    waits.push(Math.round((status.retryAt - Date.now()) / 1_000));
    since ??= status.since;
    assert.deepEqual([status.reason, status.since], ["shutting_down", since]);
    client.wake();
  }
  assert.deepEqual(waits, [1, 2, 4, 8]);
  const connection = await server.connections.next();
  connection.welcome();
  await until(states, "live");
  clock.move(3_000); // It held for a while: the next failure is the first again.
  connection.close(1012, "shutting_down");
  assert.equal(Math.round(((await until(states, "waiting")).retryAt - Date.now()) / 1_000), 1);
});

// Silence, sleep, and pages that are frozen.

test("a silent server is noticed, and a beating one is not", async (t) => {
  const server = await Server.start(t);
  const clock = clockOf(t);
  const { states } = clientOf(t, server);
  const connection = await server.connections.next();
  connection.welcome({ heartbeat: 15 });
  await until(states, "live");
  clock.move(37_000);
  connection.heartbeat(8);
  connection.event(9);
  await connection.received.next();
  clock.move(37_000);
  connection.event(10);
  await connection.received.next();
  assert.equal(server.connections.size, 0);
  clock.move(38_000);
  assert.equal((await until(states, "waiting")).reason, "server_silent");
  assert.equal((await server.connections.next()).after, at(10));
});

test("on waking from sleep the dead socket is noticed at once, though its timer has long to go", async (t) => {
  const server = await Server.start(t);
  const clock = clockOf(t);
  const { states } = clientOf(t, server);
  (await server.connections.next()).welcome({ heartbeat: 600 });
  await until(states, "live");
  clock.move(8 * HOUR);
  assert.equal((await until(states, "waiting")).reason, "server_silent");
  await server.connections.next();
});

test("on waking from sleep an attempt that is due is made at once", async (t) => {
  const server = await Server.start(t);
  const clock = clockOf(t);
  const { states } = clientOf(t, server);
  t.mock.method(Math, "random", () => 1_000);
  (await server.connections.next()).close(1012, "shutting_down");
  await until(states, "waiting");
  clock.move(8 * HOUR);
  await server.connections.next();
});

test("a clock that is set back hides no silence", async (t) => {
  const server = await Server.start(t);
  const clock = clockOf(t);
  const { states } = clientOf(t, server);
  const connection = await server.connections.next();
  connection.welcome({ heartbeat: 0.4 });
  await until(states, "live");
  clock.move(-HOUR);
  assert.equal((await until(states, "waiting")).reason, "server_silent");
});

test("a page that is frozen lets go of the connection, and goes on from the cursor when it is there again", async (t) => {
  const server = await Server.start(t);
  const { client, states, events } = clientOf(t, server);
  const first = await server.connections.next();
  first.welcome({ events: [1, 2] });
  await until(states, "live");
  client.pause();
  assert.deepEqual(await first.received.next(), { type: "ack", seq: 2 });
  await first.ended;
  assert.equal((await until(states, "waiting")).retryAt, null);
  client.wake();
  const second = await server.connections.next();
  assert.equal(second.after, at(2));
  second.welcome({ after: 2, events: [3] });
  await until(states, "live");
  assert.deepEqual(events, [1, 2, 3]);
});

// Networks that block WebSockets.

test("where no WebSocket opens the stream comes as server-sent events, however they are cut", async (t) => {
  const server = await Server.start(t);
  server.blocksWebSockets = true;
  const actors = [];
  const { states, events } = clientOf(t, server, {
    onEvent: ({ seq, actor }) => {
      events.push(seq);
      actors.push(actor);
    },
  });
  const { request, response } = await server.requests.next();
  assert.equal(request.url, "/v1/events?after=0");
  assert.equal(request.headers.authorization, "Bearer t1");
  assert.equal(request.headers.accept, "text/event-stream");
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  const bytes = Buffer.from(
    sse(WELCOME) + sse(eventOf(1)) + sse(eventOf(2)) + sse({ type: "caught_up", seq: 2, cursor: at(2) }),
  );
  const cut = bytes.indexOf("é") + 1; // In the middle of a character.
  response.write(bytes.subarray(0, cut));
  await until(states, "catching-up");
  response.write(bytes.subarray(cut));
  assert.equal((await until(states, "live")).transport, "sse");
  assert.deepEqual(
    [events, actors],
    [
      [1, 2],
      ["é", "é"],
    ],
  );

  const ack = await server.requests.next();
  assert.equal(ack.request.url, "/v1/events/ack");
  const [body] = await once(ack.request, "data");
  assert.deepEqual(JSON.parse(body), { connection: "c7", seq: 2 });
  ack.response.end(JSON.stringify({ seq: 2 }));

  response.end(sse({ type: "close", code: 1012, reason: "history_changed" }));
  assert.equal((await until(states, "waiting")).reason, "history_changed");
  const again = await server.requests.next();
  assert.equal(again.request.url, `/v1/events?after=${at(2)}&connection=c7`);
});

test("where a stream is held back it comes by long polls, and a refusal is told from a network that blocks", async (t) => {
  const server = await Server.start(t);
  server.blocksWebSockets = true;
  const clock = clockOf(t);
  const { states, events, resets } = clientOf(t, server);
  const stream = await server.requests.next();
  stream.response.writeHead(200, { "Content-Type": "text/event-stream" });
  stream.response.flushHeaders();
  const ended = once(stream.response, "close");
  const moved = setInterval(() => clock.move(1_000), 50); // It is held back for longer than one waits.
  t.after(() => clearInterval(moved));
  const poll = await server.requests.next();
  clearInterval(moved);
  await ended;
  assert.equal(poll.request.headers.accept, "application/json");
  assert.equal(poll.request.url, "/v1/events?after=0&wait=0");
  const answer = { connection: "c8", events: [eventOf(1)], next: at(1), caught_up: true, gap: null, reset: null };
  poll.response.end(JSON.stringify({ ...answer, welcome: { ...WELCOME, connection: "c8" } }));
  assert.equal((await until(states, "live")).transport, "longpoll");
  const next = await server.requests.next();
  assert.equal(next.request.url, `/v1/events?after=${at(1)}&wait=15&connection=c8`);
  assert.deepEqual(events, [1]);
  const reset = { type: "reset", after: 0, cursor: "0" };
  const changed = { ...answer, connection: "c9", events: [eventOf(1, "b")], next: at(1, "b"), reset };
  next.response.end(JSON.stringify({ ...changed, welcome: { ...WELCOME, connection: "c9" } }));
  const last = await server.requests.next();
  assert.equal(last.request.url, `/v1/events?after=${at(1, "b")}&wait=15&connection=c9`);
  assert.deepEqual([events, resets], [[1, 1], [reset]]);
  last.response.writeHead(401, { "Content-Type": "application/problem+json" });
  last.response.end(JSON.stringify({ code: "token_expired" }));
  assert.equal((await until(states, "signed-out")).reason, "token_expired");
});

// What somebody saw.

test("alerts that were seen wait for a connection, are reported on it, and again if it is lost", async (t) => {
  const server = await Server.start(t);
  const { client } = clientOf(t, server);
  client.seen(["a", "b"]);
  const first = await server.connections.next();
  first.welcome();
  assert.deepEqual(await first.received.next(), { type: "seen", alerts: ["a", "b"] });
  first.cut();
  const second = await server.connections.next();
  second.welcome();
  assert.deepEqual(await second.received.next(), { type: "seen", alerts: ["a", "b"] });
  second.send({ type: "heartbeat", seq: 0, at: "" });
  client.seen(["c"]);
  client.stop();
  assert.deepEqual(await second.received.next(), { type: "seen", alerts: ["c"] });
});

test("over plain HTTP they are posted", async (t) => {
  const server = await Server.start(t);
  server.blocksWebSockets = true;
  const { client } = clientOf(t, server);
  const { response } = await server.requests.next();
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  response.write(sse(WELCOME));
  client.seen(["a"]);
  const seen = await server.requests.next();
  assert.deepEqual([seen.request.method, seen.request.url], ["POST", "/v1/events/seen"]);
  assert.equal(seen.request.headers.authorization, "Bearer t1");
  const body = [];
  for await (const part of seen.request) body.push(part);
  assert.deepEqual(JSON.parse(Buffer.concat(body).toString()), { alerts: ["a"] });
  seen.response.writeHead(204).end();
});
