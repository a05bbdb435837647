/**
 * A buffer of the newest events of a stream, for tabs that join: all matching events in `(floor, head]`, without a gap.
 */

/** @import { EventFrame } from "./wire-types.js" */

const EVENTS_MAX = 1_000;

export class EventBuffer {
  /** Events up to this position are not in the buffer; null: the position is unknown. @type {number | null} */ floor =
    null;
  /** The position of the stream. */ head = 0;
  /** @type {EventFrame[]} */ #events = [];

  /** Empties the buffer and starts at a position. @param {number} seq */
  reset(seq) {
    this.floor = this.head = seq;
    this.#events = [];
  }

  /** @param {EventFrame} event */
  add(event) {
    if (event.seq <= this.head) return;
    this.head = event.seq;
    this.#events.push(event);
    if (this.#events.length <= EVENTS_MAX) return;
    this.floor = /** @type {EventFrame} */ (this.#events.shift()).seq;
  }

  /** Every event up to here was added. @param {number} seq */
  advance(seq) {
    if (this.floor === null) this.reset(seq);
    this.head = Math.max(this.head, seq);
  }

  /** Whether all events after a position are in the buffer. @param {number} seq */
  covers(seq) {
    return this.floor !== null && seq >= this.floor;
  }

  /** @param {number} seq */
  after(seq) {
    return this.#events.filter((event) => event.seq > seq);
  }
}
