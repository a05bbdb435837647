/**
 * Calling an admin who does not look: desktop notifications and sound, from the severity on that they chose.
 *
 * Only one tab of a browser calls, the one that has the stream. What comes within a second is one call, and more than
 * three alerts are one notification: after an outage nobody wants two hundred. A notification has the alert's id as its
 * tag, so an alert that comes again replaces what is there.
 */

import { load, mayCall, onSavedElsewhere, reaches, save } from "../settings/preferences.js";
import { compare } from "../stream/severity.js";
import { Sound } from "./notification-sound.js";

/** @import { Preferences } from "../settings/preferences.js" */
/** @import { Alert, Severity } from "../stream/wire-types.js" */

const COLLECT_MS = 1_000;
const AT_MOST = 3;
const ICON = "/console/ui/favicons/favicon.svg";

/**
 * @typedef {object} Surroundings
 * @property {() => boolean} leads               Whether this tab is the one that calls.
 * @property {(id: string | null) => void} open  A notification was clicked: show the alert, or with null the feed.
 * @property {() => void} onChange               Another tab changed the preferences, or what the browser allows is another.
 */

export class Attention {
  #surroundings;
  #sound;
  #preferences = load();
  /** @type {Alert[]} Those to be shown, */ #shown = [];
  /** @type {Alert[]} and those to be heard. */ #heard = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  /** @type {Set<Notification>} Those that stay until somebody has seen them. */ #standing = new Set();
  /** Whether the browser turned out to show none of a page's notifications, as on Android. */ barred = false;

  /** @param {Surroundings} surroundings */
  constructor(surroundings) {
    this.#surroundings = surroundings;
    this.#sound = new Sound(surroundings.onChange);
    this.#use(this.#preferences);
    onSavedElsewhere((preferences) => {
      this.#use(preferences);
      surroundings.onChange();
    });
  }

  get preferences() {
    return this.#preferences;
  }

  /** Whether the browser keeps the sound back until the person clicks somewhere. */
  get muted() {
    return this.#sound.muted;
  }

  /** Uses and remembers what the person chose. @param {Preferences} preferences */
  choose(preferences) {
    save(preferences);
    this.#use(preferences);
  }

  /** Lets a person hear it. @param {Severity} severity */
  try(severity) {
    this.#sound.play(severity);
  }

  /** Something is new. What holds now counts, whatever is chosen before the call. @param {Alert} alert */
  add(alert) {
    const { notify, sound } = this.#preferences;
    if (!this.#surroundings.leads() || !mayCall(this.#preferences, alert.severity, new Date())) return;
    if (reaches(notify, alert.severity)) this.#shown.push(alert);
    if (reaches(sound, alert.severity)) this.#heard.push(alert);
    this.#timer ??= setTimeout(() => this.#call(), COLLECT_MS);
  }

  /** Nobody is signed in any more. */
  clear() {
    this.#forget();
    for (const notification of this.#standing) notification.close();
  }

  #forget() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#shown = [];
    this.#heard = [];
  }

  /** @param {Preferences} preferences */
  #use(preferences) {
    this.#preferences = preferences;
    if (preferences.sound !== "off") this.#sound.prepare();
  }

  #call() {
    const [shown, heard] = [this.#shown, worst(this.#heard)];
    this.#forget();
    if (heard) this.#sound.play(heard);
    this.#notify(shown);
  }

  /** @param {Alert[]} alerts */
  #notify(alerts) {
    if (!alerts.length || !("Notification" in globalThis) || Notification.permission !== "granted") return;
    if (alerts.length <= AT_MOST) {
      for (const { id, severity, topic, title } of alerts) this.#show(title, `${severity} · ${topic}`, id, severity);
      return;
    }
    const critical = alerts.filter(({ severity }) => severity === "critical").length;
    const topics = [...new Set(alerts.map(({ topic }) => topic))].slice(0, AT_MOST).join(", ");
    this.#show(`${alerts.length} new alerts, ${critical} critical`, topics, null, critical ? "critical" : "info");
  }

  /** @param {string} title @param {string} body @param {string | null} id @param {Severity} severity */
  #show(title, body, id, severity) {
    const stays = severity === "critical"; // It stays on the screen until somebody has seen it.
    const options = { body, tag: id ?? "tocsin", renotify: true, icon: ICON, requireInteraction: stays, silent: true };
    const notification = this.#notification(title, options);
    if (!notification) return;
    if (stays) this.#standing.add(notification);
    notification.onclose = () => this.#standing.delete(notification);
    notification.onclick = () => {
      window.focus();
      notification.close();
      this.#surroundings.open(id);
    };
  }

  /** @param {string} title @param {NotificationOptions} options */
  #notification(title, options) {
    try {
      return new Notification(title, options);
    } catch {
      this.barred = true;
      this.#surroundings.onChange();
      return null;
    }
  }
}

/** @param {Alert[]} alerts @returns {Severity | null} */
function worst(alerts) {
  const [first] = alerts.map(({ severity }) => severity).sort((one, other) => compare(other, one));
  return first ?? null;
}
