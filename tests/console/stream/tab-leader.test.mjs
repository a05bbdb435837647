import assert from "node:assert/strict";
import test from "node:test";

import { EventBuffer } from "../../../service/console/stream/event-buffer.js";
import { Leader } from "../../../service/console/stream/tab-leader.js";
import { Server } from "./server.mjs";

const tokenOf = (exp) => `e30.${Buffer.from(JSON.stringify({ exp })).toString("base64url")}.c2ln`;
const joinOf = (from, more = {}) => ({
  type: "join",
  from,
  cursor: 0,
  visible: true,
  token: null,
  start: false,
  ...more,
});

/** A leader in a tab that has everything up to `cursor`, and what it posts to the others. */
async function leading(t, { cursor = 0, token = () => tokenOf(1), visible = true } = {}) {
  const server = await Server.start(t);
  const posted = [];
  const here = [];
  const closed = new Map();
  const buffer = new EventBuffer();
  buffer.reset(cursor);
  const shown = { visible, shown: cursor };
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
  leader.onMessage(joinOf("b", { cursor: 1 }));
  assert.deepEqual(eventsTo(posted, "b"), [2, 3]);
  leader.onMessage(joinOf("b", { cursor: 3 }));
  assert.deepEqual(eventsTo(posted, "b"), [2, 3]);
});

test("a tab that is further behind than the buffer makes it stream again from there", async (t) => {
  const { leader, server, connection, until } = await leading(t, { cursor: 5 });
  connection.welcome({ head: 5, after: 5 });
  await until("onWelcome");
  leader.onMessage(joinOf("b", { cursor: 2 }));
  assert.equal((await server.connections.next()).after, "2");
});

test("an event is acknowledged once a visible tab has shown it", async (t) => {
  const { leader, connection } = await leading(t, { visible: false });
  leader.onMessage(joinOf("b", { cursor: 0 }));
  connection.welcome({ events: [1, 2] });
  connection.send({ type: "heartbeat", seq: 2, at: "" });
  leader.onMessage({ type: "visibility", from: "b", visible: true, shown: 1 });
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

test("it reports what was seen in any of the tabs", async (t) => {
  const { leader, connection } = await leading(t);
  connection.welcome();
  leader.onMessage(joinOf("b"));
  leader.onMessage({ type: "seen", from: "b", alerts: ["x"] });
  leader.seen(["y", "x"]);
  assert.deepEqual(await connection.received.next(), { type: "seen", alerts: ["x", "y"] });
});
