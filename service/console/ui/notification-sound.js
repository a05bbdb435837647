/**
 * The notification sound: synthesized tones, different for each severity.
 *
 * Browsers block sound, and log a warning, until the person has clicked or typed in the page. Until then, `muted` is true.
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

  /** @param {() => void} onChange  `muted` changed. */
  constructor(onChange) {
    this.#onChange = onChange;
    for (const kind of ["pointerup", "keydown"]) addEventListener(kind, () => this.muted && this.#onUserActivation());
  }

  /** Prepares to play, if the browser allows it. */
  prepare() {
    this.#isNeeded = true;
    if (this.#context || !navigator.userActivation.hasBeenActive) return;
    this.#context = new AudioContext();
  }

  /** Whether the browser blocks the sound. */
  get muted() {
    return this.#isNeeded && !this.#context;
  }

  /** @param {Severity} severity */
  async play(severity) {
    this.prepare();
    const context = this.#context;
    if (!context) return; // Blocked; a late sound would be misleading.
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

/** @param {AudioContext} context @param {number} frequency @param {number} start  In s of the context's time. */
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
