import assert from "node:assert/strict";
import test from "node:test";

import { NewestVersion } from "../../../service/console/alert/newest-version.js";

const alert = (updated_at) => ({ updated_at });
const event = (seq, updated_at) => ({ seq, alert: alert(updated_at) });

test("an event is newer than those before it, whatever the clocks say", () => {
  const newest = new NewestVersion();
  newest.applyPosition(alert("5"), 10);
  assert.equal(newest.applyEvent(event(10, "9")), false);
  assert.equal(newest.applyEvent(event(11, "4")), true);
  assert.equal(newest.alert.updated_at, "4");
});

test("a response is used unless a newer version is shown", () => {
  const newest = new NewestVersion();
  newest.applyEvent(event(3, "3"));
  assert.deepEqual([newest.applyResponse(alert("2")), newest.applyResponse(alert("4"))], [false, true]);
});

test("until the position of a response is known, the stream does not fall back behind it", () => {
  const newest = new NewestVersion();
  newest.expectResponse();
  newest.applyResponse(alert("5"));
  assert.equal(newest.applyEvent(event(1, "1")), false);
  assert.equal(newest.applyPosition(alert("5"), 5), true);
  assert.equal(newest.applyEvent(event(4, "4")), false);
  assert.equal(newest.applyEvent(event(6, "6")), true);
});

test("an event that arrives while the timeline is loaded stays", () => {
  const newest = new NewestVersion();
  newest.expectResponse();
  newest.applyResponse(alert("5"));
  newest.applyEvent(event(6, "6"));
  assert.equal(newest.applyPosition(alert("5"), 5), false);
  assert.equal(newest.alert.updated_at, "6");
});

test("another alert starts over", () => {
  const newest = new NewestVersion();
  newest.applyPosition(alert("5"), 50);
  newest.reset();
  assert.equal(newest.alert, null);
  assert.equal(newest.applyEvent(event(1, "1")), true);
});

test("a version that may be void gives way to any other", () => {
  for (const [after, isVoid] of [
    [null, true],
    [49, true],
    [50, false],
  ]) {
    const newest = new NewestVersion();
    newest.applyPosition(alert("5"), 50);
    newest.invalidate(after);
    assert.equal(newest.isVoid, isVoid, `${after}`);
    assert.equal(newest.applyResponse(alert("3")), isVoid);
    assert.equal(newest.isVoid, false);
  }
  const newest = new NewestVersion();
  newest.applyPosition(alert("5"), 50);
  newest.invalidate(40);
  assert.equal(newest.applyEvent(event(41, "3")), true);
  assert.equal(newest.applyResponse(alert("2")), false);
});
