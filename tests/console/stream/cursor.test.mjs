import assert from "node:assert/strict";
import test from "node:test";

import { furthest, marked, seqOf } from "../../../service/console/stream/cursor.js";

test("a cursor has its seq, with a mark or without", () => {
  assert.deepEqual(["4711-9f3a2c1d", "4711", "0", null].map(seqOf), [4711, 4711, 0, 0]);
});

test("a bare seq gains its mark, and no cursor changes the one that it has", () => {
  assert.equal(marked(null, "7-aaaaaaaa"), "7-aaaaaaaa");
  assert.equal(marked("7", "7-aaaaaaaa"), "7-aaaaaaaa");
  assert.equal(marked("7-aaaaaaaa", "7-bbbbbbbb"), "7-aaaaaaaa");
  assert.equal(marked("7", "70-aaaaaaaa"), "7");
});

test("the further one of two cursors is that of the higher seq, whatever their text", () => {
  assert.equal(furthest("9-aaaaaaaa", "10-aaaaaaaa"), "10-aaaaaaaa");
  assert.equal(furthest("10-aaaaaaaa", "9-bbbbbbbb"), "10-aaaaaaaa");
  assert.equal(furthest("10", "10-aaaaaaaa"), "10-aaaaaaaa");
  assert.equal(furthest("10-aaaaaaaa", "10-bbbbbbbb"), "10-aaaaaaaa");
  assert.equal(furthest(null, "0"), "0");
});
