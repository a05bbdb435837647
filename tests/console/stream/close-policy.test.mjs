import assert from "node:assert/strict";
import test from "node:test";

import { backoff, closePolicy, mayRenew } from "../../../service/console/stream/close-policy.js";

test("the reason decides, whatever the code", () => {
  const reasons = ["token_expired", "kicked", "rate_limited", "slow_consumer", "invalid_utf8"];
  assert.deepEqual(
    reasons.map((reason) => closePolicy(1008, reason)),
    ["refresh", "stop", "retry_later", "retry", "stop"],
  );
  assert.equal(closePolicy(1006, "token_expired"), "refresh");
});

test("an unknown close is retried, and an unknown refusal is retried later", () => {
  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1015, 4000]) {
    assert.equal(closePolicy(code, ""), "retry");
  }
  assert.equal(closePolicy(1008, "a_reason_of_next_year"), "retry_later");
  assert.equal(closePolicy(1008, "invalid_request: after: must be a cursor"), "stop");
  assert.equal(closePolicy(1008, "constructor"), "retry_later");
  for (const code of [1003, 1007, 1009]) assert.equal(closePolicy(code, ""), "stop");
});

test("a token is renewed without the person unless it was revoked", () => {
  const reasons = ["token_expired", "token_invalid", "token_revoked", "kicked", "connection_lost"];
  assert.deepEqual(reasons.map(mayRenew), [true, true, false, false, false]);
});

test("the wait is anywhere between zero and a bound that doubles up to a cap", (t) => {
  t.mock.method(Math, "random", () => 1);
  assert.deepEqual(
    [1, 2, 3, 6, 7, 100].map((failures) => backoff(failures)),
    [1_000, 2_000, 4_000, 30_000, 30_000, 30_000],
  );
  assert.deepEqual(
    [1, 2, 3, 100].map((failures) => backoff(failures, "retry_later")),
    [30_000, 60_000, 120_000, 120_000],
  );
  Math.random.mock.mockImplementation(() => 0.5);
  assert.equal(backoff(3), 2_000);
  Math.random.mock.mockImplementation(() => 0);
  assert.equal(backoff(3), 0);
});

test("after a change of history it comes back at once, within a second", (t) => {
  t.mock.method(Math, "random", () => 1);
  const policy = closePolicy(1012, "history_changed");
  assert.deepEqual([policy, backoff(1, policy)], ["retry", 1_000]);
});
