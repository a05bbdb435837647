/**
 * Compaction of an alert's timeline: of a run of repetitions, only the first and the last are kept.
 *
 *     created  repeated  repeated  repeated  acknowledged  repeated  repeated  repeated
 *     kept     kept                kept      kept          kept                kept
 *     shown                        shown         shown                         shown
 *
 * A flapping alert may be repeated once a second for days. The first of a run is kept because it may have changed the
 * severity, which only the event before it shows, and that one may be on a page that is not loaded yet.
 */

/** @import { TimelineEvent } from "../stream/wire-types.js" */

/** @typedef {{key: string, event: TimelineEvent, severityChanged: boolean}} TimelineEntry  `severityChanged`: since the event before. */

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
    entries.push({ key: run || String(event.seq), event, severityChanged });
  });
  return entries;
}

/** @param {TimelineEvent | undefined} one @param {TimelineEvent | undefined} next */
function repeats(one, next) {
  return one?.kind === REPEATED && next?.kind === REPEATED && one.severity === next.severity;
}
