/**
 * Compaction of an alert's timeline: of a run of repetitions, only the first and the last are kept.
 *
 *     created  repeated  repeated  repeated  acknowledged  repeated  repeated  repeated
 *     kept     kept                kept      kept          kept                kept
 *     shown                        shown         shown                         shown
 *
 * A flapping alert may be repeated once a second for days. The first of a run is kept because it may have changed the
 * severity, which only the event before it shows, and that one may be on a page that is not loaded yet.
 *
 * The title and the body are those that the alert had, where it has others now: of the event that raised it, and of each
 * event after which they were different. What the alert says now stands above the timeline.
 */

/** @import { TimelineEvent } from "../stream/wire-types.js" */

/**
 * @typedef {object} TimelineEntry
 * @property {string} key
 * @property {TimelineEvent} event
 * @property {boolean} severityChanged  Since the event before.
 * @property {boolean} isOutdated  Whether the alert said something else before this event, and says something else now.
 */

const REPEATED = "alert.repeated";

/**
 * Merges events in the order of the log, and compacts them.
 * @param {readonly TimelineEvent[]} events  In order.
 * @param {readonly TimelineEvent[]} others
 * @returns {TimelineEvent[]}
 */
export function mergeEvents(events, others) {
  const bySeq = new Map([...events, ...others].map((event) => [event.seq, event]));
  const all = [...bySeq.values()].sort((one, other) => one.seq - other.seq);
  return all.filter((event, index) => !(repeats(all[index - 1], event) && repeats(event, all[index + 1])));
}

/**
 * One entry for each event, or for a run of repetitions, whose key stays the same while the run grows.
 * @param {readonly TimelineEvent[]} events  In order.
 * @returns {TimelineEntry[]}
 */
export function entriesOf(events) {
  /** @type {TimelineEntry[]} */ const entries = [];
  let run = ""; // The key of the current run; empty: none.
  events.forEach((event, index) => {
    const before = events[index - 1];
    const severityChanged = before !== undefined && before.severity !== event.severity;
    if (event.kind !== REPEATED || severityChanged) run = "";
    else if (run) entries.pop();
    else run = `repeated after ${before?.seq ?? 0}`;
    entries.push({ key: run || String(event.seq), event, severityChanged, isOutdated: false });
  });
  const now = events.at(-1);
  entries.forEach((entry, index) => {
    entry.isOutdated = ![entries[index - 1]?.event, now].some((other) => isSameContent(other, entry.event));
  });
  return entries;
}

/** @param {TimelineEvent | undefined} one @param {TimelineEvent | undefined} other */
function isSameContent(one, other) {
  return one?.title === other?.title && one?.body === other?.body;
}

/** @param {TimelineEvent | undefined} one @param {TimelineEvent | undefined} next */
function repeats(one, next) {
  return one?.kind === REPEATED && next?.kind === REPEATED && one.severity === next.severity;
}
