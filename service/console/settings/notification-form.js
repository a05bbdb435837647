/**
 * The form in which an admin chooses when to be notified. A choice takes effect at once.
 */

import { element } from "../ui/dom.js";

/** @import { Notifications } from "../ui/notifications.js" */
/** @import { Threshold } from "../ui/notification-preferences.js" */
/** @import { Severity } from "../stream/wire-types.js" */

/** @type {[Threshold, string][]} */
const THRESHOLDS = [
  ["off", "Never"],
  ["critical", "Critical only"],
  ["error", "Error and critical"],
  ["warning", "Warning and worse"],
  ["info", "Every new alert"],
];

export class NotificationForm {
  #notifications;
  #notify = choice("notify", THRESHOLDS);
  #sound = choice("sound", THRESHOLDS);
  #quiet = input("quiet", "checkbox");
  #from = input("quiet-from", "time");
  #to = input("quiet-to", "time");
  #critical = input("critical-always", "checkbox");
  #hint = element("p", { class: "hint", "data-testid": "attention-hint", role: "status" });
  #listen = element("button", { type: "button", class: "quiet", id: "listen" }, "Listen");

  /** @param {Notifications} notifications */
  constructor(notifications) {
    this.#notifications = notifications;
    this.element = element(
      "form",
      "choices",
      row("Desktop notification", this.#notify),
      row("Sound", this.#sound, this.#listen),
      row("Quiet hours, local time", this.#quiet, element("span", "times", this.#from, labelled("to", this.#to))),
      row("Critical alerts notify in quiet hours too", this.#critical),
      this.#hint,
    );
    this.#from.setAttribute("aria-label", "Quiet from");
    this.element.addEventListener("submit", (event) => event.preventDefault());
    this.element.addEventListener("change", ({ target }) => this.#onChange(target));
    this.#listen.addEventListener("click", () =>
      this.#notifications.preview(severityOf(this.#notifications.preferences.sound)),
    );
    this.show();
  }

  /** Shows the current preferences. */
  show() {
    const { notify, sound, quiet, quietFrom, quietTo, criticalAlways } = this.#notifications.preferences;
    this.#notify.value = notify;
    this.#sound.value = sound;
    this.#quiet.checked = quiet;
    this.#from.value = quietFrom;
    this.#to.value = quietTo;
    this.#critical.checked = criticalAlways;
    this.#from.disabled = this.#to.disabled = this.#critical.disabled = !quiet;
    this.#hint.textContent = this.#hintText();
    this.#hint.hidden = !this.#hint.textContent;
  }

  /** @param {EventTarget | null} changed */
  async #onChange(changed) {
    const before = this.#notifications.preferences;
    this.#notifications.choose({
      notify: /** @type {Threshold} */ (this.#notify.value),
      sound: /** @type {Threshold} */ (this.#sound.value),
      quiet: this.#quiet.checked,
      quietFrom: this.#from.value || before.quietFrom,
      quietTo: this.#to.value || before.quietTo,
      criticalAlways: this.#critical.checked,
    });
    if (changed === this.#notify && this.#notify.value !== "off" && !this.#notifications.isUnsupported) {
      await Notification.requestPermission(); // A browser asks only upon a click.
    }
    this.show();
  }

  #hintText() {
    const { notify } = this.#notifications.preferences;
    if (notify !== "off") {
      if (this.#notifications.isUnsupported) return "This browser shows no desktop notifications of a page.";
      if (Notification.permission === "denied") {
        return "The browser blocks notifications of this page. Allow them in its settings for this site.";
      }
      if (Notification.permission === "default") return "The browser has not allowed notifications yet.";
    }
    return this.#notifications.muted ? "The browser makes no sound until you click somewhere in this page." : "";
  }
}

/** What "Listen" plays: the least severe that sounds. @param {Threshold} threshold @returns {Severity} */
function severityOf(threshold) {
  return threshold === "off" ? "critical" : threshold;
}

/** @param {string} id @param {[string, string][]} options */
function choice(id, options) {
  return element("select", { id, name: id }, ...options.map(([value, text]) => element("option", { value }, text)));
}

/** @param {string} id @param {string} type */
function input(id, type) {
  return element("input", { id, name: id, type });
}

/** @param {string} text @param {HTMLElement} control @param {...Node} more */
function row(text, control, ...more) {
  return element(
    "div",
    "choice",
    element("label", { for: control.id }, text),
    element("span", "controls", control, ...more),
  );
}

/** @param {string} text @param {HTMLElement} control */
function labelled(text, control) {
  return element("label", "", text, " ", control);
}
