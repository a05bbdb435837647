/**
 * Which alerts the person sees: an alert is reported once its element was in view, in a visible page and behind no modal
 * dialog, for a second. Each alert is reported once a session.
 */

const SEEN_AFTER_MS = 1_000;
const IN_VIEW_RATIO = 0.9; // Not all: fractions of a pixel may be cut off.
const REPORTED_MAX = 50_000;

export class SightingObserver {
  #report;
  /** @type {WeakMap<Element, string>} */ #ids = new WeakMap();
  /** The elements in view, with their timers while they can be seen. @type {Map<Element, number | undefined>} */
  #inView = new Map();
  /** @type {Set<string>} */ #reported = new Set();
  #observer = new IntersectionObserver((entries) => this.#onChange(entries), { threshold: IN_VIEW_RATIO });

  /** @param {(id: string) => void} report */
  constructor(report) {
    this.#report = report;
    document.addEventListener("visibilitychange", () => this.#restartAll());
    new MutationObserver((changes) => {
      if (changes.some(({ target }) => target instanceof HTMLDialogElement)) this.#restartAll();
    }).observe(document, { subtree: true, attributeFilter: ["open"] });
  }

  /** Observes an element that shows an alert from now on, until it is removed. @param {Element} element @param {string} id */
  observe(element, id) {
    this.#leave(element);
    this.#observer.unobserve(element);
    if (this.#reported.has(id)) return;
    this.#ids.set(element, id);
    this.#observer.observe(element);
  }

  /** The session ended. */
  clear() {
    this.#observer.disconnect();
    for (const element of [...this.#inView.keys()]) this.#leave(element);
    this.#reported.clear();
  }

  /** @param {IntersectionObserverEntry[]} entries */
  #onChange(entries) {
    for (const { target, intersectionRatio } of entries) {
      if (intersectionRatio >= IN_VIEW_RATIO) {
        this.#restart(target);
      } else {
        this.#leave(target);
        if (!target.isConnected) this.#observer.unobserve(target);
      }
    }
  }

  #restartAll() {
    for (const element of this.#inView.keys()) this.#restart(element);
  }

  /** The second begins, or does not while the element cannot be seen. @param {Element} element */
  #restart(element) {
    clearTimeout(this.#inView.get(element));
    const isCovered = document.hidden || document.querySelector("dialog:modal") !== null;
    const timer = isCovered ? undefined : setTimeout(() => this.#onSeen(element), SEEN_AFTER_MS);
    this.#inView.set(element, timer);
  }

  /** @param {Element} element */
  #leave(element) {
    clearTimeout(this.#inView.get(element));
    this.#inView.delete(element);
  }

  /** @param {Element} element */
  #onSeen(element) {
    this.#leave(element);
    this.#observer.unobserve(element);
    const id = this.#ids.get(element);
    if (id === undefined || this.#reported.has(id)) return;
    const [oldest] = this.#reported;
    if (this.#reported.size >= REPORTED_MAX) this.#reported.delete(oldest);
    this.#reported.add(id);
    this.#report(id);
  }
}
