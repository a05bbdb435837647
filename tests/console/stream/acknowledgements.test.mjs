import assert from "node:assert/strict";
import test from "node:test";

import { Acknowledgements } from "../../../service/console/stream/acknowledgements.js";

function acknowledging(t, isSent = () => true) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const sent = [];
  const acks = new Acknowledgements((seq) => isSent() && Boolean(sent.push(seq)));
  const show = (seq) => {
    acks.received(seq);
    acks.acknowledge(seq);
  };
  return { acks, sent, show };
}

test("many events are acknowledged with one message", (t) => {
  const { sent, show } = acknowledging(t);
  for (let seq = 1; seq <= 100; seq += 1) show(seq);
  assert.deepEqual(sent, []);
  t.mock.timers.tick(250);
  assert.deepEqual(sent, [100]);
});

test("nothing that was not received is acknowledged, and nothing twice", (t) => {
  const { acks, sent, show } = acknowledging(t);
  show(2);
  acks.acknowledge(99);
  acks.flush();
  acks.acknowledge(1);
  acks.flush();
  assert.deepEqual(sent, [2]);
});

test("a late timer is overtaken by the next event", (t) => {
  const { sent, show } = acknowledging(t);
  show(1);
  t.mock.timers.setTime(200); // Without running the timer: the page is hidden.
  const { now } = Date;
  t.mock.method(Date, "now", () => now() + 100);
  show(2);
  assert.deepEqual(sent, [2]);
});

test("an acknowledgement that could not be sent is sent again", async (t) => {
  let isOpen = false;
  const { acks, sent, show } = acknowledging(t, () => isOpen);
  show(3);
  acks.flush();
  await Promise.resolve();
  isOpen = true;
  acks.schedule();
  t.mock.timers.tick(250);
  assert.deepEqual(sent, [3]);
});

test("a connection that goes on sends the last acknowledgement again, and after a reset nothing is due", (t) => {
  const { acks, sent, show } = acknowledging(t);
  show(5);
  acks.flush();
  acks.resend();
  acks.flush();
  acks.reset();
  acks.acknowledge(5);
  acks.flush();
  show(1);
  acks.flush();
  assert.deepEqual(sent, [5, 5, 1]);
});
