/**
 * Tones by severity, made here: no file, and each told apart from the others without looking.
 *
 * A browser lets a page make no sound, and complains if it tries, before the person has clicked or typed in it. Until then
 * `muted` says so.
 */

/** @import { Severity } from "../stream/wire-types.js" */

/** Frequencies in Hz, one after the other. @type {Record<Severity, number[]>} */
const TONES = {
  info: [660],
  warning: [660, 880],
  error: [880, 660, 880],
  critical: [988, 740, 988, 740, 988, 740],
};
const TONE_SECONDS = 0.18;
const LOUDNESS = 0.2;

export class NotificationSound {
  /** @type {AudioContext | null} */ #context = null;
  #isNeeded = false;
  #onChange;

  /** @param {() => void} onChange  `muted` is another. */
  constructor(onChange) {
    this.#onChange = onChange;
    for (const kind of ["pointerup", "keydown"]) addEventListener(kind, () => this.muted && this.#onUserActivation());
  }

  /** Gets ready, as soon as the browser allows it. */
  prepare() {
    this.#isNeeded = true;
    if (this.#context || !navigator.userActivation.hasBeenActive) return;
    this.#context = new AudioContext();
  }

  /** Whether the browser waits for a click. */
  get muted() {
    return this.#isNeeded && !this.#context;
  }

  /** @param {Severity} severity */
  async play(severity) {
    this.prepare();
    const context = this.#context;
    if (!context) return; // Later it would sound out of season.
    await context.resume();
    for (const [index, frequency] of TONES[severity].entries()) {
      tone(context, frequency, context.currentTime + index * TONE_SECONDS);
    }
  }

  #onUserActivation() {
    this.prepare();
    this.#onChange();
  }
}

/** @param {AudioContext} context @param {number} frequency @param {number} start  In s of the context's own time. */
function tone(context, frequency, start) {
  const end = start + TONE_SECONDS;
  const oscillator = new OscillatorNode(context, { frequency, type: "triangle" });
  const gain = new GainNode(context, { gain: 0 });
  gain.gain.setValueAtTime(0, start);
  gain.gain.linearRampToValueAtTime(LOUDNESS, start + 0.02); // A step would click.
  gain.gain.linearRampToValueAtTime(0, end);
  oscillator.connect(gain).connect(context.destination);
  oscillator.start(start);
  oscillator.stop(end);
}
