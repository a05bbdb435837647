import assert from "node:assert/strict";
import test from "node:test";

import { Sightings } from "../../../service/console/stream/sightings.js";

function reporting(t, isSent = () => true) {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const sent = [];
  const reported = [];
  const send = (alerts) => isSent() && Boolean(sent.push(alerts));
  const sightings = new Sightings(send, (alerts) => reported.push(alerts));
  return { sightings, sent, reported };
}

test("what is seen within half a second is one message, and none names more than a hundred", (t) => {
  const { sightings, sent } = reporting(t);
  sightings.add(["a", "b"]);
  sightings.add(["b", "c"]);
  assert.deepEqual(sent, []);
  t.mock.timers.tick(500);
  assert.deepEqual(sent, [["a", "b", "c"]]);
  sightings.add(Array.from({ length: 201 }, (_, number) => String(number)));
  t.mock.timers.tick(500);
  assert.deepEqual(
    sent.slice(1).map(({ length }) => length),
    [100, 100, 1],
  );
});

test("what could not be sent is sent after the next heartbeat", async (t) => {
  let isOpen = false;
  const { sightings, sent } = reporting(t, () => isOpen);
  sightings.add(["a"]);
  sightings.flush();
  await Promise.resolve();
  isOpen = true;
  sightings.settle();
  t.mock.timers.tick(500);
  assert.deepEqual(sent, [["a"]]);
});

test("a new connection sends what the last one may have lost, which is all since its last heartbeat", async (t) => {
  const { sightings, sent } = reporting(t);
  sightings.add(["a"]);
  sightings.flush();
  await Promise.resolve();
  sightings.settle();
  sightings.add(["b"]);
  sightings.flush();
  sightings.add(["c"]);
  sightings.pause();
  sightings.resend();
  t.mock.timers.tick(500);
  assert.deepEqual(sent, [["a"], ["b"], ["c", "b"]]);
});

test("what was sent, and followed by a heartbeat, is reported", async (t) => {
  const answers = [true, false];
  const { sightings, reported } = reporting(t, () => answers.shift());
  for (const id of ["a", "b"]) {
    sightings.add([id]);
    sightings.flush();
  }
  await Promise.resolve();
  assert.deepEqual(reported, []);
  sightings.settle();
  sightings.settle();
  assert.deepEqual(reported, [["a"]]);
});

test("what fails after a heartbeat came meanwhile is sent again", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const sent = [];
  let fail;
  const sightings = new Sightings((alerts) => {
    sent.push(alerts);
    return new Promise((resolve) => {
      fail = () => resolve(false);
    });
  });
  sightings.add(["a"]);
  sightings.flush();
  sightings.settle();
  fail();
  for (let turn = 0; turn < 5; turn += 1) await Promise.resolve();
  sightings.settle();
  t.mock.timers.tick(500);
  assert.deepEqual(sent, [["a"], ["a"]]);
});

test("while there is no connection, a bounded number waits", (t) => {
  const { sightings, sent } = reporting(t);
  for (let number = 0; number < 6_000; number += 1) sightings.add([String(number)]);
  sightings.flush();
  assert.equal(sent.flat().length, 5_000);
});
