import assert from "node:assert/strict";
import test from "node:test";

import { backoff, closePolicy } from "../../service/console/stream/close-policy.js";

/** The close reasons of the service, each with its code and what a client does: see test_client.py. */
const reasons = JSON.parse(process.env.CLOSE_REASONS ?? "[]");
const SAID = { refresh: ["sign in", "refresh the token, then resume"], stop: ["stop"] };
const LATER = ["rate_limited", "connection_limit"];

test("what the client does at a close is what the service advises", () => {
  assert.ok(reasons.length > 20);
  for (const { reason, code, advice } of reasons) {
    const policy = closePolicy(code, reason);
    if (policy in SAID) assert.ok(SAID[policy].includes(advice), `${reason}: ${policy}, not ${advice}`);
    else assert.match(advice, /then resume|so resume/, `${reason}: ${policy}, not ${advice}`);
    assert.equal(policy === "retry-later", LATER.includes(reason), reason);
  }
});

test("a close that is not of the service is retried, and a refusal that is not known is retried later", () => {
  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1015, 4000])
    assert.equal(closePolicy(code, ""), "retry");
  assert.equal(closePolicy(1008, "a_reason_of_next_year"), "retry-later");
  for (const code of [1003, 1007, 1009]) assert.equal(closePolicy(code, ""), "stop");
});

test("the wait is anywhere between nothing and a bound that doubles up to a cap", (t) => {
  t.mock.method(Math, "random", () => 1);
  assert.deepEqual(
    [1, 2, 3, 6, 7, 100].map((failures) => backoff(failures)),
    [1_000, 2_000, 4_000, 30_000, 30_000, 30_000],
  );
  assert.deepEqual(
    [1, 2, 3, 100].map((failures) => backoff(failures, "retry-later")),
    [30_000, 60_000, 120_000, 120_000],
  );
  t.mock.restoreAll();
  const drawn = Array.from({ length: 1_000 }, () => backoff(3));
  assert.ok(Math.min(...drawn) < 400);
  assert.ok(Math.max(...drawn) > 3_600);
});
