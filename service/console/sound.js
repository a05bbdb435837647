/**
 * Tones by severity, made here: no file, and each told apart from the others without looking.
 *
 * A browser makes no sound before the person has clicked or typed in the page. Until then the sound waits, and `muted`
 * says so.
 */

/** @import { Severity } from "./wire.js" */

/** Frequencies in Hz, one after the other. @type {Record<Severity, number[]>} */
const TONES = {
  info: [660],
  warning: [660, 880],
  error: [880, 660, 880],
  critical: [988, 740, 988, 740, 988, 740],
};
const TONE_SECONDS = 0.18;
const LOUDNESS = 0.2;
const LATE_MS = 2_000;

export class Sound {
  /** @type {AudioContext | null} */ #context = null;
  #onChange;

  /** @param {() => void} onChange  `muted` may be another. */
  constructor(onChange) {
    this.#onChange = onChange;
    for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, () => this.#context?.resume(), { capture: true });
  }

  /** Gets ready. After a click the browser lets it sound. */
  prepare() {
    if (!this.#context) {
      this.#context = new AudioContext();
      this.#context.onstatechange = this.#onChange;
    }
    this.#context.resume();
    return this.#context;
  }

  /** Whether the browser waits for a click. */
  get muted() {
    return this.#context?.state === "suspended";
  }

  /** @param {Severity} severity */
  async play(severity) {
    const context = this.prepare();
    const asked = performance.now();
    await context.resume();
    if (performance.now() - asked > LATE_MS) return; // It would sound out of season.
    TONES[severity].forEach((frequency, index) => tone(context, frequency, context.currentTime + index * TONE_SECONDS));
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
