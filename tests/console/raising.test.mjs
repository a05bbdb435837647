import assert from "node:assert/strict";
import test from "node:test";

import { raises } from "../../service/console/feed/notify-rules.js";

const LONG_AGO = "2026-01-01T00:00:00.000000Z";
const NOW = "2026-01-01T12:00:00.000000Z";
const repeated = (changes) => ({
  kind: "alert.repeated",
  alert: { status: "open", severity: "error", status_at: LONG_AGO, updated_at: NOW, ...changes },
});

test("what is new, open again or escalated calls", () => {
  for (const kind of ["alert.created", "alert.reopened", "alert.escalated"]) {
    assert.equal(raises({ ...repeated(), kind }, { severity: "critical" }, true), true, kind);
  }
  for (const kind of ["alert.acknowledged", "alert.resolved", "alert.commented", "alert.expired"]) {
    assert.equal(raises({ ...repeated(), kind }, null, false), false, kind);
  }
});

test("a repetition calls where it is graver than what we had", () => {
  const calls = ["info", "warning", "error", "critical"].map((severity) => raises(repeated(), { severity }, false));
  assert.deepEqual(calls, [true, true, false, false]);
  assert.equal(raises(repeated({ status: "acknowledged" }), { severity: "info" }, false), false);
});

test("of an alert that is not loaded, the repetition itself says whether it reopened it", () => {
  assert.equal(raises(repeated(), null, false), false);
  assert.equal(raises(repeated({ status_at: NOW }), null, false), true);
  assert.equal(raises(repeated({ severity: "critical" }), null, false), true);
  assert.equal(raises(repeated({ severity: "critical" }), null, true), false);
});
