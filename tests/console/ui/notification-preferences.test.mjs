import assert from "node:assert/strict";
import test from "node:test";

import { load, mayNotifyAt, meetsThreshold } from "../../../service/console/ui/notification-preferences.js";

const at = (time) => new Date(`2026-01-01T${time}:00`);
const quiet = (quietFrom, quietTo, more = {}) => ({ quiet: true, quietFrom, quietTo, criticalAlways: true, ...more });

test("a threshold is met by what is as severe, or more", () => {
  const met = ["info", "error", "critical"].map((severity) => meetsThreshold("error", severity));
  assert.deepEqual(met, [false, true, true]);
  assert.equal(meetsThreshold("off", "critical"), false);
});

test("quiet hours may go over midnight, and end with their last minute", () => {
  const night = ["21:59", "22:00", "03:00", "06:59", "07:00"].map((time) =>
    mayNotifyAt(quiet("22:00", "07:00"), "error", at(time)),
  );
  assert.deepEqual(night, [true, false, false, false, true]);
  const noon = ["11:59", "12:00", "13:00"].map((time) => mayNotifyAt(quiet("12:00", "13:00"), "error", at(time)));
  assert.deepEqual(noon, [true, false, true]);
});

test("quiet hours begin and end to the minute", () => {
  for (const [from, to, notifies] of [
    ["11:00", "13:00", false],
    ["12:31", "13:00", true],
    ["12:30", "12:30", true], // No time at all.
    ["12:29", "12:30", true],
    ["13:00", "12:31", false], // Over midnight.
    ["13:00", "12:30", true],
  ]) {
    assert.equal(mayNotifyAt(quiet(from, to), "error", at("12:30")), notifies, `${from} to ${to}`);
  }
});

test("critical alerts notify in quiet hours unless that is turned off", () => {
  assert.equal(mayNotifyAt(quiet("22:00", "07:00"), "critical", at("23:00")), true);
  assert.equal(mayNotifyAt(quiet("22:00", "07:00", { criticalAlways: false }), "critical", at("23:00")), false);
  assert.equal(mayNotifyAt({ ...quiet("22:00", "07:00"), quiet: false }, "info", at("23:00")), true);
});

/** Replaces the browser's storage. */
function storing(text) {
  Object.defineProperty(globalThis, "localStorage", { value: { getItem: () => text }, configurable: true });
}

test("what was stored is read, and what cannot be understood is the default", (t) => {
  t.after(() => delete globalThis.localStorage);
  storing('{"notify":"error","quiet":true,"quietFrom":"23:30","criticalAlways":false}');
  const { notify, quiet, quietFrom, quietTo, criticalAlways } = load();
  assert.deepEqual([notify, quiet, quietFrom, quietTo, criticalAlways], ["error", true, "23:30", "07:00", false]);
  for (const text of [null, "{", "null", '{"notify":"fatal","quietFrom":"25:00","quiet":1}']) {
    storing(text);
    const defaults = load();
    assert.deepEqual([defaults.notify, defaults.quiet, defaults.quietFrom], ["off", false, "22:00"], text);
  }
});

test("without storage the defaults hold", (t) => {
  Object.defineProperty(globalThis, "localStorage", { get: () => assert.fail("blocked"), configurable: true });
  t.after(() => delete globalThis.localStorage);
  assert.equal(load().notify, "off");
});
