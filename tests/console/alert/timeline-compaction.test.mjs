import assert from "node:assert/strict";
import test from "node:test";

import { entriesOf, mergeEvents } from "../../../service/console/alert/timeline-compaction.js";

const event = (seq, kind, severity = "warning") => ({ seq, kind: `alert.${kind}`, severity });
const repeated = (from, to, severity) =>
  Array.from({ length: to - from + 1 }, (_, index) => event(from + index, "repeated", severity));
const shown = (events) =>
  entriesOf(events).map(({ event: { seq }, severityChanged }) => (severityChanged ? `${seq} changed` : seq));

test("a day of repetitions, one by one, is kept as two and shown as one, which is the same while it grows", () => {
  let events = mergeEvents([], [event(1, "created")]);
  const keys = new Set();
  for (const one of repeated(2, 86_400)) {
    events = mergeEvents(events, [one]);
    keys.add(entriesOf(events).at(-1).key);
  }
  assert.deepEqual(
    events.map(({ seq }) => seq),
    [1, 2, 86_400],
  );
  assert.deepEqual(shown(events), [1, 86_400]);
  assert.equal(keys.size, 1);
});

test("what is no repetition is kept, and parts the runs beside it", () => {
  const events = [event(1, "created"), ...repeated(2, 9), event(10, "acknowledged"), ...repeated(11, 19)];
  assert.deepEqual(shown(mergeEvents([], events)), [1, 9, 10, 19]);
});

test("a rise in severity stays, whatever is repeated after it, and the runs beside it have keys of their own", () => {
  const events = [event(1, "created"), ...repeated(2, 9), ...repeated(10, 19, "critical")];
  const steps = entriesOf(mergeEvents([], events));
  assert.deepEqual(shown(mergeEvents([], events)), [1, 9, "10 changed", 19]);
  assert.equal(new Set(steps.map(({ key }) => key)).size, steps.length);
});

test("it does not matter in which order the pages come, nor whether an event comes twice", () => {
  const events = [
    event(1, "created"),
    ...repeated(2, 9),
    ...repeated(10, 19, "critical"),
    event(20, "resolved", "critical"),
  ];
  const pages = [events.slice(15), events.slice(10, 16), events.slice(5, 11), events.slice(0, 6)];
  const later = pages.reduce((known, page) => mergeEvents(known, page.toReversed()), []);
  assert.deepEqual(later, mergeEvents([], events));
  assert.deepEqual(shown(later), [1, 9, "10 changed", 19, 20]);
});

const says = (seq, kind, title, body = null) => ({ ...event(seq, kind), title, body });
const outdated = (events) =>
  entriesOf(events)
    .filter(({ isOutdated }) => isOutdated)
    .map(({ event: { title } }) => title);

test("what the alert said is shown once, where it says something else now", () => {
  const first = [says(1, "created", "80 %"), says(2, "acknowledged", "80 %")];
  assert.deepEqual(outdated(mergeEvents([], first)), []);
  const later = mergeEvents(mergeEvents([], first), [says(3, "repeated", "90 %"), says(4, "repeated", "97 %")]);
  assert.deepEqual(outdated(later), ["80 %"]);
  const then = mergeEvents(later, [
    says(5, "resolved", "97 %"),
    says(6, "reopened", "97 %"),
    says(7, "repeated", "99 %"),
  ]);
  assert.deepEqual(outdated(then), ["80 %", "97 %"]);
});
