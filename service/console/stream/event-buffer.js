/**
 * A buffer of the newest events of a stream, for tabs that join: all matching events in `(floor, head]`, without a gap.
 */

import { furthest, seqOf } from "./cursor.js";

/** @import { EventFrame } from "./wire-types.js" */

const EVENTS_MAX = 1_000;

export class EventBuffer {
  /** Events up to this cursor are not in the buffer; null: the position is unknown. @type {string | null} */ floor =
    null;
  /** The cursor of the stream. */ head = "0";
  /** @type {EventFrame[]} */ #events = [];

  /** Empties the buffer and starts at a cursor. @param {string} cursor */
  reset(cursor) {
    this.floor = this.head = cursor;
    this.#events = [];
  }

  /** @param {EventFrame} event */
  add(event) {
    if (event.seq <= seqOf(this.head)) return;
    this.head = event.cursor;
    this.#events.push(event);
    if (this.#events.length <= EVENTS_MAX) return;
    this.floor = /** @type {EventFrame} */ (this.#events.shift()).cursor;
  }

  /** Every event up to here was added. @param {string} cursor */
  advance(cursor) {
    if (this.floor === null) this.reset(cursor);
    this.head = furthest(this.head, cursor);
  }

  /** The last event, or where the buffer starts. */
  get last() {
    return this.#events.at(-1)?.cursor ?? this.floor;
  }

  /** Whether all events after a seq are in the buffer. @param {string} cursor */
  covers(cursor) {
    return this.floor !== null && seqOf(cursor) >= seqOf(this.floor);
  }

  /** Whether the stream is known to have been at a cursor: the events after it are those of the buffer. @param {string} cursor */
  holds(cursor) {
    const isEnd = this.floor !== null && (cursor === this.floor || cursor === this.head);
    return isEnd || this.#events.some((event) => event.cursor === cursor);
  }

  /** @param {string} cursor */
  after(cursor) {
    const seq = seqOf(cursor);
    return this.#events.filter((event) => event.seq > seq);
  }
}
