/**
 * The newest version of an alert among those that events and responses bring.
 *
 * An event is newer than the events before it, by `seq`. A response is used unless it is older, by `updated_at`. Events
 * are compared with it in the same way until the timeline is loaded, which tells its log position: the stream may still
 * be catching up to it.
 *
 * When the history of the log changes, the shown version may be void. It stays until another one replaces it, whatever
 * that one's time is.
 */

/** @import { Alert, EventFrame } from "../stream/wire-types.js" */

export class NewestVersion {
  /** @type {Alert | null} */ alert = null;
  #position = -1;
  #isPositionKnown = false; // Whether `#position` includes the last response.
  /** Whether the version may be of a history that the log has lost. */ isVoid = false;

  /** There is no alert. */
  reset() {
    this.alert = null;
    this.#position = -1;
    this.#isPositionKnown = this.isVoid = false;
  }

  /** What happened after a seq is void; null: all may be. @param {number | null} after */
  invalidate(after) {
    if (!this.alert || (after !== null && this.#isPositionKnown && this.#position <= after)) return;
    this.#position = -1;
    this.#isPositionKnown = false;
    this.isVoid = true;
  }

  /** A response was asked for, whose log position is not known yet. */
  expectResponse() {
    this.#isPositionKnown = false;
  }

  /** Returns whether the event brought a newer version. @param {Pick<EventFrame, "alert" | "seq">} event */
  applyEvent({ alert, seq }) {
    if (seq <= this.#position || (!this.#isPositionKnown && this.#isOlder(alert))) return false;
    this.#position = seq;
    this.#replace(alert);
    return true;
  }

  /** Returns whether the response is used. @param {Alert} alert */
  applyResponse(alert) {
    if (this.#isOlder(alert)) return false;
    this.#replace(alert);
    return true;
  }

  /** The log position of a response is known. Returns whether it is used. @param {Alert} alert @param {number} position */
  applyPosition(alert, position) {
    this.#isPositionKnown = true;
    if (position <= this.#position) return false; // An event that arrived meanwhile is newer.
    this.#position = position;
    this.#replace(alert);
    return true;
  }

  /** @param {Alert} alert */
  #isOlder(alert) {
    return this.alert !== null && !this.isVoid && alert.updated_at < this.alert.updated_at;
  }

  /** @param {Alert} alert */
  #replace(alert) {
    this.alert = alert;
    this.isVoid = false;
  }
}
