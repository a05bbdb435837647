/**
 * The newest version of an alert among those that events and responses bring.
 *
 * An event is newer than the events before it, by `seq`. A response is used unless it is older, by `updated_at`. Events
 * are compared with it in the same way until the timeline is loaded, which tells its log position: the stream may still
 * be catching up to it.
 */

/** @import { Alert, EventFrame } from "../stream/wire-types.js" */

export class NewestVersion {
  /** @type {Alert | null} */ alert = null;
  #position = -1;
  #isPositionKnown = false; // Whether `#position` includes the last response.

  /** There is no alert. */
  reset() {
    this.alert = null;
    this.#position = -1;
    this.#isPositionKnown = false;
  }

  /** A response was asked for, whose log position is not known yet. */
  expectResponse() {
    this.#isPositionKnown = false;
  }

  /** Returns whether the event brought a newer version. @param {Pick<EventFrame, "alert" | "seq">} event */
  applyEvent({ alert, seq }) {
    const isOlder = !this.#isPositionKnown && this.alert !== null && alert.updated_at < this.alert.updated_at;
    if (seq <= this.#position || isOlder) return false;
    this.#position = seq;
    this.alert = alert;
    return true;
  }

  /** Returns whether the response is used. @param {Alert} alert */
  applyResponse(alert) {
    if (this.alert && alert.updated_at < this.alert.updated_at) return false;
    this.alert = alert;
    return true;
  }

  /** The log position of a response is known. Returns whether it is used. @param {Alert} alert @param {number} position */
  applyPosition(alert, position) {
    this.#isPositionKnown = true;
    if (position <= this.#position) return false; // An event that arrived meanwhile is newer.
    this.#position = position;
    this.alert = alert;
    return true;
  }
}
