import assert from "node:assert/strict";
import test from "node:test";

import { EventBuffer } from "../../../service/console/stream/event-buffer.js";

const seqs = (events) => events.map(({ seq }) => seq);

test("it holds every event after its floor, and says where that is", () => {
  const buffer = new EventBuffer();
  assert.equal(buffer.covers(0), false);
  buffer.reset(10);
  for (const seq of [11, 13, 13, 12, 20]) buffer.add({ seq });
  buffer.advance(25);
  assert.deepEqual(seqs(buffer.after(10)), [11, 13, 20]);
  assert.deepEqual(seqs(buffer.after(13)), [20]);
  assert.deepEqual([buffer.floor, buffer.head], [10, 25]);
  assert.deepEqual(
    [9, 10, 30].map((seq) => buffer.covers(seq)),
    [false, true, true],
  );
});

test("it is bounded, and its floor is the last event that it let go of", () => {
  const buffer = new EventBuffer();
  buffer.reset(0);
  for (let seq = 1; seq <= 1_500; seq += 1) buffer.add({ seq });
  assert.equal(buffer.floor, 500);
  assert.equal(buffer.after(0).length, 1_000);
  assert.equal(buffer.covers(499), false);
});
