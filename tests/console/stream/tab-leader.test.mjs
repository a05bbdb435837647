import assert from "node:assert/strict";
import test from "node:test";

import { EventBuffer } from "../../../service/console/stream/event-buffer.js";
import { Leader } from "../../../service/console/stream/tab-leader.js";
import { at, Server } from "./server.mjs";

const tokenOf = (exp) => `e30.${Buffer.from(JSON.stringify({ exp })).toString("base64url")}.c2ln`;
const joinOf = (from, more = {}) => ({
  type: "join",
  from,
  cursor: "0",
  own: "none",
  visible: true,
  token: null,
  start: false,
  ...more,
});

/** A leader in a tab that has everything up to `cursor`, and what it posts to the others. */
async function leading(t, { cursor = "0", token = () => tokenOf(1), visible = true } = {}) {
  const server = await Server.start(t);
  const posted = [];
  const here = [];
  const closed = new Map();
  const buffer = new EventBuffer();
  buffer.reset(cursor);
  const shown = { visible, shown: 0 };
  const leader = new Leader(
    { url: server.url, token },
    {
      status: { state: "connecting", reason: null, since: null, transport: "websocket", retryAt: null },
      cursor,
      buffer,
      visibility: () => shown,
      dispatch: (callback) => {
        here.push(callback);
        if (callback.call === "onEvent") shown.shown = callback.value.seq;
      },
      post: (message) => posted.push(message),
      onTabClosed: (tab, onClosed) => closed.set(tab, onClosed),
    },
  );
  t.after(() => leader.stop());
  leader.begin();
  const connection = await server.connections.next();
  const until = async (call) => {
    while (!here.some((one) => one.call === call)) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  return { leader, server, connection, posted, here, closed, shown, until };
}

const eventsTo = (posted, to) =>
  posted.filter((one) => one.to === to && one.callback?.call === "onEvent").map(({ callback }) => callback.value.seq);

test("it announces itself, and passes on what arrives once a tab has joined", async (t) => {
  const { leader, connection, posted, until } = await leading(t);
  assert.deepEqual(posted, [{ type: "leader" }]);
  leader.onMessage(joinOf("b"));
  connection.welcome({ events: [1, 2] });
  await until("onEvent");
  assert.deepEqual(posted[1], { type: "joined", to: "b" });
  await connection.received.next();
  assert.deepEqual(eventsTo(posted, null), [1, 2]);
});

test("a tab that joins late gets what it missed, and a tab that asks again does not", async (t) => {
  const { leader, connection, posted } = await leading(t);
  connection.welcome({ events: [1, 2, 3] });
  assert.deepEqual(await connection.received.next(), { type: "ack", seq: 3 });
  leader.onMessage(joinOf("b", { cursor: at(1) }));
  assert.deepEqual(eventsTo(posted, "b"), [2, 3]);
  leader.onMessage(joinOf("b", { cursor: at(3) }));
  assert.deepEqual(eventsTo(posted, "b"), [2, 3]);
});

test("a tab that is further behind than the buffer, or of another history, cannot follow", async (t) => {
  const { leader, connection, posted, until } = await leading(t, { cursor: at(5) });
  connection.welcome({ head: 5, after: 5, events: [6, 7] });
  await until("onEvent");
  await connection.received.next();
  for (const cursor of [at(2), at(6, "b"), "6"]) leader.onMessage(joinOf("b", { cursor }));
  const unknown = { type: "unknown", to: "b" };
  assert.deepEqual(posted.slice(1), [unknown, unknown, unknown]);
  leader.onMessage(joinOf("b", { cursor: at(6) }));
  assert.deepEqual(posted[4], { type: "joined", to: "b" });
  assert.deepEqual(eventsTo(posted, "b"), [7]);
});

test("a tab that is ahead follows if the stream gets to where it is, and not if it gets elsewhere", async (t) => {
  const { leader, connection, posted, until } = await leading(t);
  connection.welcome();
  await until("onWelcome");
  leader.onMessage(joinOf("b", { cursor: at(2) }));
  leader.onMessage(joinOf("c", { cursor: at(2, "b") }));
  leader.onMessage(joinOf("d", { cursor: at(2, "b"), own: "live" }));
  connection.event(1);
  connection.event(2);
  await connection.received.next();
  const replies = posted.filter(({ type }) => type === "joined" || type === "unknown");
  assert.deepEqual(
    replies.map(({ type, to }) => `${type} ${to}`),
    ["joined b", "joined c", "unknown d", "unknown c"],
  );
});

test("a tab that is ahead of what the log brings is not believed for long", async (t) => {
  const { leader, connection, posted, until } = await leading(t);
  connection.welcome();
  await until("onWelcome");
  leader.onMessage(joinOf("b", { cursor: at(4711, "b") }));
  connection.event(1);
  await connection.received.next();
  assert.equal(posted.filter(({ type }) => type === "unknown").length, 0);
  const { now } = Date;
  t.mock.method(Date, "now", () => now() + 6_000);
  connection.heartbeat(1);
  connection.event(2);
  await connection.received.next();
  assert.deepEqual(
    posted.filter(({ type }) => type === "unknown"),
    [{ type: "unknown", to: "b" }],
  );
});

test("a tab whose own stream has settled is believed, unless events between would be missing", async (t) => {
  const { leader, connection, posted, until } = await leading(t, { cursor: at(5) });
  connection.welcome({ head: 5, after: 5, events: [6, 9] });
  await until("onEvent");
  await connection.received.next();
  leader.onMessage(joinOf("b", { cursor: at(7), own: "settled" }));
  leader.onMessage(joinOf("c", { cursor: at(4), own: "settled" }));
  assert.deepEqual(eventsTo(posted, "b"), [9]);
  assert.deepEqual(posted.at(-1), { type: "unknown", to: "c" });
});

test("a reset goes to all tabs, and what they showed before it acknowledges nothing", async (t) => {
  const { leader, server, connection, posted, here, shown, until } = await leading(t, { visible: false });
  leader.onMessage(joinOf("b"));
  leader.onMessage(joinOf("ahead", { cursor: at(99) }));
  connection.welcome({ events: [1, 2, 3] });
  await until("onEvent");
  leader.onMessage({ type: "visibility", from: "b", visible: true, shown: at(3) });
  assert.deepEqual(await connection.received.next(), { type: "ack", seq: 3 });
  connection.close(1012, "history_changed");
  const second = await server.connections.next();
  assert.equal(second.after, at(3));
  second.greet({ head: 3, after: 1 });
  second.reset(1, at(1));
  await until("onReset");
  leader.onMessage({ type: "visibility", from: "b", visible: true, shown: at(3) }); // It was on its way.
  shown.shown = 1;
  second.event(2, "b");
  second.event(3, "b");
  while (eventsTo(posted, null).length < 5) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.deepEqual(eventsTo(posted, null), [1, 2, 3, 2, 3]);
  leader.onMessage({ type: "visibility", from: "b", visible: true, shown: at(2, "b") });
  assert.deepEqual(await second.received.next(), { type: "ack", seq: 2 });
  const reset = { type: "reset", after: 1, cursor: at(1) };
  const resets = posted.filter(({ callback }) => callback?.call === "onReset");
  assert.deepEqual(resets, [{ type: "stream", to: null, callback: { call: "onReset", value: reset } }]);
  assert.deepEqual(posted.find(({ type }) => type === "unknown").to, "ahead");
  assert.equal(here.filter(({ call }) => call === "onReset").length, 1);
});

test("an event is acknowledged once a visible tab has shown it", async (t) => {
  const { leader, connection, until } = await leading(t, { visible: false });
  leader.onMessage(joinOf("b"));
  connection.welcome({ events: [1, 2] });
  connection.heartbeat(2);
  await until("onEvent");
  leader.onMessage({ type: "visibility", from: "b", visible: true, shown: at(1) });
  assert.deepEqual(await connection.received.next(), { type: "ack", seq: 1 });
  leader.onMessage({ type: "leave", from: "b" });
  assert.deepEqual(await connection.received.next(), { type: "ack", seq: 2 });
});

test("of the tabs' tokens it takes the one that lives longest, and none that was refused", async (t) => {
  const { leader, server, connection } = await leading(t, { token: () => tokenOf(10) });
  assert.equal(connection.token, tokenOf(10));
  leader.onMessage(joinOf("b", { token: tokenOf(30) }));
  leader.onMessage(joinOf("c", { token: tokenOf(20) }));
  connection.close(1008, "token_expired");
  const second = await server.connections.next();
  assert.equal(second.token, tokenOf(30));
  second.welcome();
  second.close(1008, "token_revoked");
  assert.equal((await server.connections.next()).token, tokenOf(20));
});

test("it reports what was seen in any of the tabs, and says so once the connection lived on", async (t) => {
  const { leader, connection, posted, here, until } = await leading(t);
  connection.welcome();
  leader.onMessage(joinOf("b"));
  leader.onMessage({ type: "seen", from: "b", alerts: ["x"] });
  leader.seen(["y", "x"]);
  assert.deepEqual(await connection.received.next(), { type: "seen", alerts: ["x", "y"] });
  const reported = { call: "onSeenReported", value: ["x", "y"] };
  assert.equal(here.filter(({ call }) => call === reported.call).length, 0);
  connection.heartbeat(0);
  await until("onSeenReported");
  assert.deepEqual(
    here.filter(({ call }) => call === reported.call),
    [reported],
  );
  assert.deepEqual(
    posted.filter(({ callback }) => callback?.call === reported.call),
    [{ type: "stream", to: null, callback: reported }],
  );
});
