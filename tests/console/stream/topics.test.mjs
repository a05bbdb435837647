import assert from "node:assert/strict";
import test from "node:test";

import { covers, isTopicPattern } from "../../../service/console/stream/topics.js";

/** What `service.topics` says, computed by test_node.py: `[pattern, topic, whether it covers it]`. */
const CASES = JSON.parse(process.env.TOPIC_CASES ?? "[]");

test("a pattern covers the topics that it covers in the service", () => {
  assert.ok(CASES.length > 100);
  for (const [pattern, topic, expected] of CASES) assert.equal(covers(pattern, topic), expected, `${pattern} ${topic}`);
});

test("a pattern is a topic, all topics beneath one, or all", () => {
  for (const pattern of ["*", "payments", "payments.eu-1", "a_b.c.*"])
    assert.equal(isTopicPattern(pattern), true, pattern);
  for (const text of ["", "*.a", "a.*.b", "a*", "A", "a..b", "ä", "a.", "a".repeat(101)]) {
    assert.equal(isTopicPattern(text), false, text);
  }
});
