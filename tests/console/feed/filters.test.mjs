import assert from "node:assert/strict";
import test from "node:test";

import { NO_FILTERS, parse, passes, toQuery, wordMatcher } from "../../../service/console/feed/filters.js";

const alert = { title: "Disk is full", topic: "infra.disk", severity: "error", status: "open" };

test("filters are read from the address that they are written to", () => {
  const search = "topic=payments.*&topic=infra&min_severity=error&status=open&q=disk+full";
  assert.equal(toQuery(parse(search)).toString(), search);
  assert.equal(toQuery(NO_FILTERS).size, 0);
});

test("what the service would refuse is left out", () => {
  const search = `topic=a..b&topic=*&min_severity=fatal&status=gone&q=${"x".repeat(300)}`;
  assert.deepEqual(parse(search), { topics: ["*"], severity: null, status: null, text: "x".repeat(200) });
});

test("an alert passes if topic, severity and status do", () => {
  const cases = [
    [{}, true],
    [{ topics: ["payments", "infra.*"] }, true],
    [{ topics: ["infra"] }, false],
    [{ severity: "warning" }, true],
    [{ severity: "critical" }, false],
    [{ status: "open", severity: "error" }, true],
    [{ status: "resolved" }, false],
  ];
  for (const [filters, expected] of cases) {
    assert.equal(passes({ ...NO_FILTERS, ...filters }, alert), expected, JSON.stringify(filters));
  }
});

test("each word of a search, or part of a word, is in title or body", () => {
  const matches = (text, body = null) => wordMatcher(text)({ ...alert, body });
  assert.deepEqual(
    ["", "disk", "FULL  disk", "dis", "ful is", "fuller"].map((text) => matches(text)),
    [true, true, true, true, true, false],
  );
  assert.equal(matches("full db1", "On db1."), true);
});
