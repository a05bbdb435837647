import assert from "node:assert/strict";
import test from "node:test";

import { parse } from "../../../service/console/alert/markdown.js";

/** The least processor time of several runs, in microseconds. */
function cost(text) {
  let least = Infinity;
  for (let run = 0; run < 5; run += 1) {
    const before = process.cpuUsage();
    parse(text);
    const { user, system } = process.cpuUsage(before);
    least = Math.min(least, user + system);
  }
  return least;
}

function assertProportion(make) {
  parse(make(100)); // compiled
  const [short, long] = [cost(make(240)), cost(make(1_920))];
  assert.ok(long < 24 * Math.max(short, 50), `${short} µs became ${long} µs`);
}

const PARTS = ["`", "` ", "``` ", "**", "_", "*", "[", "[a](http://", "http://a.", "- ", "1. ", "~~~\n", " "];

for (const part of PARTS) {
  test(`many of ${JSON.stringify(part)} take time in proportion`, () => {
    assertProportion((length) => part.repeat(Math.ceil(length / part.length)));
  });
}

test("code takes time in proportion, however it begins and ends", () => {
  for (const [before, after] of [
    ["` ", "`"],
    ["`", " `"],
    ["` ", " `"],
    ["** ", "**"],
    ["_", " _"],
  ]) {
    assertProportion((length) => before + "a".repeat(length) + after);
  }
});

test("code between backticks loses one space at both ends, unless it is blank", () => {
  const code = (text) => parse(text)[0].content[0].text;
  assert.deepEqual(
    [code("` a `"), code("`  a `"), code("` a`"), code("`a `"), code("`   `")],
    ["a", " a", " a", "a ", "   "],
  );
});
