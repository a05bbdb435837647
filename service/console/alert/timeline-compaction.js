/**
 * What of an alert's log is worth keeping and showing: everything, but of a run of repetitions the first and the last.
 *
 *     created  repeated  repeated  repeated  acknowledged  repeated  repeated  repeated
 *     kept     kept                kept      kept          kept                kept
 *     shown                        shown                                       shown      (and what is no repetition)
 *
 * An alert that flaps is repeated once a second, day and night. The first of a run is kept because it is the one that may
 * have raised the severity, which only the event before it tells: a page that has not come yet.
 */

/** @import { TimelineEvent } from "../stream/wire-types.js" */

/** @typedef {{key: string, event: TimelineEvent, severityChanged: boolean}} TimelineEntry  `severityChanged`: since the event before. */

const REPEATED = "alert.repeated";

/**
 * Events with others among them, in the order of the log, thinned out.
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
 * One step an event, but one for each run of repetitions, which keeps its key while it grows.
 * @param {readonly TimelineEvent[]} events  In order.
 * @returns {TimelineEntry[]}
 */
export function entriesOf(events) {
  /** @type {TimelineEntry[]} */ const entries = [];
  let run = ""; // The key of the one that the step before belongs to; empty: to none.
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
