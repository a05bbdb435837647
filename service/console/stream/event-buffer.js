/**
 * The newest events of a stream, for a tab that joins: every event that matches in `(floor, head]`, and no hole.
 */

/** @import { EventFrame } from "./wire-types.js" */

const EVENTS_MAX = 1_000;

export class EventBuffer {
  /** Nothing at or before this position is known; null while the position is not. @type {number | null} */ floor =
    null;
  /** The position of the stream. */ head = 0;
  /** @type {EventFrame[]} */ #events = [];

  /** Forgets all, and begins at a position. @param {number} seq */
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

  /** Nothing up to here is outstanding. @param {number} seq */
  advance(seq) {
    if (this.floor === null) this.reset(seq);
    this.head = Math.max(this.head, seq);
  }

  /** Whether every event after a position is here. @param {number} seq */
  covers(seq) {
    return this.floor !== null && seq >= this.floor;
  }

  /** @param {number} seq */
  after(seq) {
    return this.#events.filter((event) => event.seq > seq);
  }
}
