/**
 * Desktop notifications and sound for new alerts, from the severity on that the admin chose.
 *
 * Only one tab of a browser notifies: the one that runs the stream. Alerts that arrive within a second are collected, and
 * more than three become one notification, so that an outage does not raise two hundred. A notification has the alert's
 * id as its tag: if the alert comes again, the new notification replaces the old one.
 */

import { compareSeverity, isCritical } from "../stream/severity.js";
import { load, mayNotifyAt, meetsThreshold, onSavedInOtherTab, save } from "./notification-preferences.js";
import { NotificationSound } from "./notification-sound.js";

/** @import { Preferences } from "./notification-preferences.js" */
/** @import { Alert, Severity } from "../stream/wire-types.js" */

const COLLECT_MS = 1_000;
const SINGLE_MAX = 3;
const ICON = "console/ui/favicons/favicon.svg";

/**
 * @typedef {object} NotificationHost
 * @property {() => boolean} isLeader            Whether this tab runs the stream.
 * @property {(id: string | null) => void} open  A notification was clicked: show the alert, or with null the feed.
 * @property {() => void} onChange               The preferences, or what the browser allows, have changed.
 */

export class Notifications {
  #host;
  #sound;
  #preferences = load();
  /** @type {Alert[]} To be shown. */ #toShow = [];
  /** @type {Severity[]} To be played. */ #toPlay = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  /** @type {Set<Notification>} Those that stay on the screen until they are dismissed. */ #persistent = new Set();
  /** Whether the browser shows no notifications of a page, as on Android. */ isUnsupported = !(
    "Notification" in globalThis
  );

  /** @param {NotificationHost} host */
  constructor(host) {
    this.#host = host;
    this.#sound = new NotificationSound(host.onChange);
    this.#use(this.#preferences);
    onSavedInOtherTab((preferences) => {
      this.#use(preferences);
      host.onChange();
    });
  }

  get preferences() {
    return this.#preferences;
  }

  /** Whether the browser plays no sound until the person clicks somewhere. */
  get muted() {
    return this.#sound.muted;
  }

  /** Uses and stores the preferences. @param {Preferences} preferences */
  choose(preferences) {
    save(preferences);
    this.#use(preferences);
  }

  /** Plays the sound of a severity. @param {Severity} severity */
  preview(severity) {
    this.#sound.play(severity);
  }

  /** Notifies of a new alert, by the preferences as they are now. @param {Alert} alert */
  add(alert) {
    const { notify, sound } = this.#preferences;
    if (!this.#host.isLeader() || !mayNotifyAt(this.#preferences, alert.severity, new Date())) return;
    if (meetsThreshold(notify, alert.severity)) this.#toShow.push(alert);
    if (meetsThreshold(sound, alert.severity)) this.#toPlay.push(alert.severity);
    this.#timer ??= setTimeout(() => this.#flush(), COLLECT_MS);
  }

  /** The person signed out. */
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
    const alerts = this.#toShow;
    const [mostSevere] = this.#toPlay.sort((one, other) => compareSeverity(other, one));
    this.#clearPending();
    if (mostSevere) this.#sound.play(mostSevere);
    if (alerts.length && !this.isUnsupported && Notification.permission === "granted") this.#show(alerts);
  }

  /** @param {Alert[]} alerts */
  #show(alerts) {
    if (alerts.length <= SINGLE_MAX) {
      for (const { id, severity, topic, title } of alerts) this.#notify(title, `${severity} · ${topic}`, id, severity);
      return;
    }
    const critical = alerts.filter(({ severity }) => isCritical(severity)).length;
    const topics = [...new Set(alerts.map(({ topic }) => topic))].slice(0, SINGLE_MAX).join(", ");
    this.#notify(`${alerts.length} new alerts, ${critical} critical`, topics, null, critical ? "critical" : "info");
  }

  /** @param {string} title @param {string} body @param {string | null} id @param {Severity} severity */
  #notify(title, body, id, severity) {
    const isPersistent = isCritical(severity);
    const options = { body, tag: id ?? "tocsin", icon: ICON, requireInteraction: isPersistent, silent: true };
    let notification;
    try {
      notification = new Notification(title, /** @type {NotificationOptions} */ ({ ...options, renotify: true }));
    } catch {
      this.isUnsupported = true;
      return this.#host.onChange();
    }
    if (isPersistent) this.#persistent.add(notification);
    notification.onclose = () => this.#persistent.delete(notification);
    notification.onclick = () => {
      window.focus();
      notification.close();
      this.#host.open(id);
    };
  }
}
