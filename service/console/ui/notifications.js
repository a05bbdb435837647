/**
 * Calling an admin who does not look: desktop notifications and sound, from the severity on that they chose.
 *
 * Only one tab of a browser calls, the one that has the stream. What comes within a second is one call, and more than
 * three alerts are one notification: after an outage nobody wants two hundred. A notification has the alert's id as its
 * tag, so an alert that comes again replaces what is there.
 */

import { load, mayNotifyAt, meetsThreshold, onChangedInOtherTab, save } from "../settings/preferences.js";
import { compareSeverity } from "../stream/severity.js";
import { NotificationSound } from "./notification-sound.js";

/** @import { Preferences } from "../settings/preferences.js" */
/** @import { Alert, Severity } from "../stream/wire-types.js" */

const COLLECT_MS = 1_000;
const SINGLE_MAX = 3;
const ICON = "/console/ui/favicons/favicon.svg";

/**
 * @typedef {object} NotificationHost
 * @property {() => boolean} isLeader             Whether this tab is the one that calls.
 * @property {(id: string | null) => void} open  A notification was clicked: show the alert, or with null the feed.
 * @property {() => void} onChange               Another tab changed the preferences, or what the browser allows is another.
 */

export class Notifications {
  #host;
  #sound;
  #preferences = load();
  /** @type {Alert[]} To be shown */ #toShow = [];
  /** @type {Alert[]} and to be played. */ #toPlay = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  /** @type {Set<Notification>} Those that stay until somebody has seen them. */ #persistent = new Set();
  /** Whether the browser turned out to show none of a page's notifications, as on Android. */ isUnsupported = false;

  /** @param {NotificationHost} host */
  constructor(host) {
    this.#host = host;
    this.#sound = new NotificationSound(host.onChange);
    this.#use(this.#preferences);
    onChangedInOtherTab((preferences) => {
      this.#use(preferences);
      host.onChange();
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
  preview(severity) {
    this.#sound.play(severity);
  }

  /** Something is new. What holds now counts, whatever is chosen before the call. @param {Alert} alert */
  add(alert) {
    const { notify, sound } = this.#preferences;
    if (!this.#host.isLeader() || !mayNotifyAt(this.#preferences, alert.severity, new Date())) return;
    if (meetsThreshold(notify, alert.severity)) this.#toShow.push(alert);
    if (meetsThreshold(sound, alert.severity)) this.#toPlay.push(alert);
    this.#timer ??= setTimeout(() => this.#flush(), COLLECT_MS);
  }

  /** Nobody is signed in any more. */
  clear() {
    this.#clearPending();
    for (const notification of this.#persistent) notification.close();
  }

  #clearPending() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#toShow = [];
    this.#toPlay = [];
  }

  /** @param {Preferences} preferences */
  #use(preferences) {
    this.#preferences = preferences;
    if (preferences.sound !== "off") this.#sound.prepare();
  }

  #flush() {
    const [toShow, severity] = [this.#toShow, mostSevere(this.#toPlay)];
    this.#clearPending();
    if (severity) this.#sound.play(severity);
    this.#notify(toShow);
  }

  /** @param {Alert[]} alerts */
  #notify(alerts) {
    if (!alerts.length || !("Notification" in globalThis) || Notification.permission !== "granted") return;
    if (alerts.length <= SINGLE_MAX) {
      for (const { id, severity, topic, title } of alerts) this.#show(title, `${severity} · ${topic}`, id, severity);
      return;
    }
    const critical = alerts.filter(({ severity }) => severity === "critical").length;
    const topics = [...new Set(alerts.map(({ topic }) => topic))].slice(0, SINGLE_MAX).join(", ");
    this.#show(`${alerts.length} new alerts, ${critical} critical`, topics, null, critical ? "critical" : "info");
  }

  /** @param {string} title @param {string} body @param {string | null} id @param {Severity} severity */
  #show(title, body, id, severity) {
    const stays = severity === "critical"; // It stays on the screen until somebody has seen it.
    const options = { body, tag: id ?? "tocsin", renotify: true, icon: ICON, requireInteraction: stays, silent: true };
    const notification = this.#notification(title, options);
    if (!notification) return;
    if (stays) this.#persistent.add(notification);
    notification.onclose = () => this.#persistent.delete(notification);
    notification.onclick = () => {
      window.focus();
      notification.close();
      this.#host.open(id);
    };
  }

  /** @param {string} title @param {NotificationOptions} options */
  #notification(title, options) {
    try {
      return new Notification(title, options);
    } catch {
      this.isUnsupported = true;
      this.#host.onChange();
      return null;
    }
  }
}

/** @param {Alert[]} alerts @returns {Severity | null} */
function mostSevere(alerts) {
  const [first] = alerts.map(({ severity }) => severity).sort((one, other) => compareSeverity(other, one));
  return first ?? null;
}
