import assert from "node:assert/strict";
import test from "node:test";

import { shouldNotify } from "../../../service/console/feed/notify-rules.js";

const LONG_AGO = "2026-01-01T00:00:00.000000Z";
const NOW = "2026-01-01T12:00:00.000000Z";
const repeated = (changes) => ({
  kind: "alert.repeated",
  alert: { status: "open", severity: "error", status_at: LONG_AGO, updated_at: NOW, ...changes },
});

test("what is new, open again or escalated notifies", () => {
  for (const kind of ["alert.created", "alert.reopened", "alert.escalated"]) {
    assert.equal(shouldNotify({ ...repeated(), kind }, { severity: "critical" }, true), true, kind);
  }
  for (const kind of ["alert.acknowledged", "alert.resolved", "alert.commented", "alert.expired"]) {
    assert.equal(shouldNotify({ ...repeated(), kind }, null, false), false, kind);
  }
});

test("a repetition notifies where it is more severe than before", () => {
  const calls = ["info", "warning", "error", "critical"].map((severity) =>
    shouldNotify(repeated(), { severity }, false),
  );
  assert.deepEqual(calls, [true, true, false, false]);
  assert.equal(shouldNotify(repeated({ status: "acknowledged" }), { severity: "info" }, false), false);
});

test("of an alert that is not loaded, the repetition itself says whether it reopened it", () => {
  assert.equal(shouldNotify(repeated(), null, false), false);
  assert.equal(shouldNotify(repeated({ status_at: NOW }), null, false), true);
  assert.equal(shouldNotify(repeated({ severity: "critical" }), null, false), true);
  assert.equal(shouldNotify(repeated({ severity: "critical" }), null, true), false);
});
