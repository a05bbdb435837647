import assert from "node:assert/strict";
import test from "node:test";

import { ago, bytes, count, duration, formatDuration, rate, untilTime } from "../../../service/console/ui/format.js";

const S = 1_000;
const MIN = 60 * S;
const H = 60 * MIN;
const D = 24 * H;

test("a duration has two units at most", () => {
  const cases = [
    [-5, "0 ms"],
    [0.42, "0.42 ms"],
    [41.3, "41 ms"],
    [412.7, "413 ms"],
    [3_210, "3.2 s"],
    [59 * S + 999, "59 s"],
    [4 * MIN + 12 * S, "4 min 12 s"],
    [5 * MIN, "5 min"],
    [2 * H + 5 * MIN + 9 * S, "2 h 5 min"],
    [30 * H, "1 d 6 h"],
    [400 * D, "400 d"],
  ];
  for (const [ms, text] of cases) assert.equal(formatDuration(ms), text, String(ms));
});

test("or one", () => {
  const texts = [12 * S, 4 * MIN + 12 * S, 2 * H + 5 * MIN, 30 * H].map((ms) => formatDuration(ms, 1));
  assert.deepEqual(texts, ["12 s", "4 min", "2 h", "1 d"]);
});

test("an age changes seldom, and a time in the future is now", (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: D });
  const texts = [-H, 0, 9 * S, 29 * S, 3 * MIN + 50 * S, 25 * H].map((ms) => ago(new Date(D - ms).toISOString()));
  assert.deepEqual(texts, ["just now", "just now", "just now", "20 s ago", "3 min ago", "1 d ago"]);
});

test("a countdown shows the last second until it is over", (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: D });
  const texts = [-S, 0, 1, S, 90 * S - 1, D].map((ms) => untilTime(new Date(D + ms).toISOString()));
  assert.deepEqual(texts, ["now", "now", "in 1 s", "in 1 s", "in 1 min 30 s", "in 1 d"]);
});

test("numbers have their units, and what is unknown is a dash", () => {
  assert.deepEqual([count(null), rate(null), duration(null), bytes(null)], ["–", "–", "–", "–"]);
  assert.deepEqual([rate(0.123), rate(1_234), duration(0.0412)], ["0.12/s", "1,234/s", "41 ms"]);
  assert.deepEqual([0, 512, 1_536, 3 * 1024 ** 3].map(bytes), ["0 B", "512 B", "1.5 KiB", "3 GiB"]);
});
