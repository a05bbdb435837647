import assert from "node:assert/strict";
import test from "node:test";

import { EventBuffer } from "../../../service/console/stream/event-buffer.js";
import { at, eventOf } from "./server.mjs";

const seqs = (events) => events.map(({ seq }) => seq);

test("it has every event after its floor, and says where that is", () => {
  const buffer = new EventBuffer();
  assert.equal(buffer.covers("0"), false);
  buffer.reset(at(10));
  for (const seq of [11, 13, 13, 12, 20]) buffer.add(eventOf(seq));
  buffer.advance(at(25));
  assert.deepEqual(seqs(buffer.after(at(10))), [11, 13, 20]);
  assert.deepEqual(seqs(buffer.after(at(13))), [20]);
  assert.deepEqual([buffer.floor, buffer.last, buffer.head], [at(10), at(20), at(25)]);
  assert.deepEqual(
    [9, 10, 30].map((seq) => buffer.covers(at(seq))),
    [false, true, true],
  );
});

test("it holds the cursors of its events and of its ends, and none of another history", () => {
  const buffer = new EventBuffer();
  assert.equal(buffer.holds("0"), false);
  buffer.reset(at(10));
  buffer.add(eventOf(11));
  buffer.advance(at(20));
  const held = (history) => [9, 10, 11, 12, 20, 30].filter((seq) => buffer.holds(at(seq, history)));
  assert.deepEqual([held("a"), held("b")], [[10, 11, 20], []]);
  assert.equal(buffer.holds("11"), false);
});

test("it is bounded, and its floor is the last event that it dropped", () => {
  const buffer = new EventBuffer();
  buffer.reset("0");
  for (let seq = 1; seq <= 1_500; seq += 1) buffer.add(eventOf(seq));
  assert.equal(buffer.floor, at(500));
  assert.equal(buffer.after("0").length, 1_000);
  assert.equal(buffer.covers(at(499)), false);
});
