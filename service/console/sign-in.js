/**
 * The form of the sign-in: a token, or the OpenID provider where the settings name one.
 */

import { byId } from "./dom.js";

/**
 * @typedef {object} SignInListener
 * @property {(token: string) => void} onToken  One was pasted.
 * @property {() => void} onProvider            The person wants to sign in there.
 */

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

  /** @param {SignInListener} listener */
  constructor({ onToken, onProvider }) {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      onToken(this.#token.value.trim());
    });
    this.#button.addEventListener("click", onProvider);
    // The browser's memory may bring the page back from the provider as it was left.
    addEventListener("pageshow", () => this.setBusy(false));
  }

  get isOpen() {
    return !this.#form.hidden;
  }

  get hasFocus() {
    return this.#form.contains(document.activeElement);
  }

  /** Offers the provider, before the token. @param {string} name */
  offer(name) {
    this.#name = name;
    this.#provider.hidden = false;
    this.setBusy(false);
    if (document.activeElement === this.#token && !this.#token.value) this.#button.focus();
  }

  /**
   * @param {string | null} subject  Whose session goes on with a new token; null where none does.
   * @param {string | null} reason   A sentence.
   */
  open(subject, reason) {
    this.#form.hidden = false;
    this.#title.textContent = subject === null ? "Sign in" : "Sign in again";
    this.#lead.textContent =
      subject === null
        ? this.#firstLead
        : `Your alerts stay on this page. With a new token for ${subject}, they go on where they stopped.`;
    this.say(reason);
  }

  close() {
    this.#form.hidden = true;
    this.#token.value = "";
    this.say(null);
  }

  /** @param {string | null} reason  Why it came to nothing: a sentence. */
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

  clear() {
    this.#token.value = "";
  }

  focus() {
    (this.#provider.hidden ? this.#token : this.#button).focus();
  }
}
