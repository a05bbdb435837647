/**
 * The sign-in form, with a token or an OpenID provider, and the dialog that asks before a link signs in somebody else.
 */

import { byId } from "../ui/dom.js";

/**
 * @typedef {object} SignInListener
 * @property {(token: string) => void} onToken  A token was entered.
 * @property {() => void} onProvider            The provider was chosen.
 */

/** Asks before a link replaces the signed-in person: the link may be an attack. */
export class SwitchDialog {
  #dialog = /** @type {HTMLDialogElement} */ (byId("switch"));
  #text = byId("switch-text");
  #answer = (/** @type {boolean} */ _yes) => {};

  constructor() {
    this.#dialog.addEventListener("close", () => this.#answer(this.#dialog.returnValue === "switch"));
  }

  /**
   * @param {string} from  Who is signed in.
   * @param {string} to    Whom the link's token is for.
   * @returns {Promise<boolean>}
   */
  ask(from, to) {
    this.#text.textContent = `A link wants to sign you in as ${to} instead of ${from}.`;
    this.#answer(false); // For an earlier link, which this one replaces.
    this.#dialog.returnValue = "";
    if (!this.#dialog.open) this.#dialog.showModal();
    return new Promise((resolve) => (this.#answer = resolve));
  }
}

export class SignInForm {
  #form = byId("sign-in");
  #title = byId("sign-in-title");
  #lead = byId("sign-in-lead");
  #token = /** @type {HTMLInputElement} */ (byId("token"));
  #reason = byId("reason");
  #provider = byId("sign-in-provider");
  #button = /** @type {HTMLButtonElement} */ (byId("sign-in-oidc"));
  #firstLead = this.#lead.textContent;
  #waiting = this.#button.textContent ?? "";
  #name = "";
  /** @type {string | null} */ #subject = null;

  /** @param {SignInListener} listener */
  constructor({ onToken, onProvider }) {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      onToken(this.#token.value.trim());
    });
    this.#button.addEventListener("click", onProvider);
    // The back/forward cache may restore the page as it was left.
    addEventListener("pageshow", () => this.setBusy(false));
  }

  get isOpen() {
    return !this.#form.hidden;
  }

  get hasFocus() {
    return this.#form.contains(document.activeElement);
  }

  /** Offers the provider above the token field. @param {string} name */
  offer(name) {
    this.#name = name;
    this.#provider.hidden = false;
    this.#describe();
    this.setBusy(false);
    if (document.activeElement === this.#token && !this.#token.value) this.#button.focus();
  }

  /**
   * @param {string | null} subject  Whose session continues with a new token; null: nobody's.
   * @param {string | null} reason   A sentence.
   */
  open(subject, reason) {
    this.#form.hidden = false;
    this.#subject = subject;
    this.#title.textContent = subject === null ? "Sign in" : "Sign in again";
    this.#describe();
    this.say(reason);
  }

  close() {
    this.#form.hidden = true;
    this.#token.value = "";
    this.say(null);
  }

  /** @param {string | null} reason  Why the sign-in failed: a sentence. */
  say(reason) {
    this.#reason.textContent = reason;
    this.#reason.hidden = !reason;
    this.#token.setAttribute("aria-invalid", String(Boolean(reason)));
  }

  /** @param {boolean} busy  The provider is being asked. */
  setBusy(busy) {
    this.#button.disabled = busy;
    this.#button.textContent = busy ? this.#waiting : `Sign in with ${this.#name}`;
  }

  #describe() {
    const [subject, name] = [this.#subject, this.#name];
    const stay = `Your alerts stay on this page. With a new token for ${subject}, they go on where they stopped.`;
    const leave = `Signing in with ${name} leaves this page and loads the alerts again.`;
    this.#lead.textContent = subject === null ? this.#firstLead : name ? `${stay} ${leave}` : stay;
  }

  focus() {
    (this.#provider.hidden ? this.#token : this.#button).focus();
  }
}
