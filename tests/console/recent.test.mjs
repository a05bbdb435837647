import assert from "node:assert/strict";
import test from "node:test";

import { Recent } from "../../service/console/stream/event-buffer.js";

const seqs = (events) => events.map(({ seq }) => seq);

test("it holds every event after its floor, and says where that is", () => {
  const recent = new Recent();
  assert.equal(recent.covers(0), false);
  recent.begin(10);
  for (const seq of [11, 13, 13, 12, 20]) recent.add({ seq });
  recent.reach(25);
  assert.deepEqual(seqs(recent.after(10)), [11, 13, 20]);
  assert.deepEqual(seqs(recent.after(13)), [20]);
  assert.deepEqual([recent.floor, recent.head], [10, 25]);
  assert.deepEqual(
    [9, 10, 30].map((seq) => recent.covers(seq)),
    [false, true, true],
  );
});

test("it is bounded, and its floor is the last event that it let go of", () => {
  const recent = new Recent();
  recent.begin(0);
  for (let seq = 1; seq <= 1_500; seq += 1) recent.add({ seq });
  assert.equal(recent.floor, 500);
  assert.equal(recent.after(0).length, 1_000);
  assert.equal(recent.covers(499), false);
});
