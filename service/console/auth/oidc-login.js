/**
 * Signing in with OpenID Connect, as far as the page is concerned: there and back, renewing in time, signing out.
 *
 *     out --begin()--> away --arrival--> in --renew()--> in … --signOut()--> away --> out
 *
 * The tokens live in this object's memory and nowhere else. Renewal starts before the access token expires: a minute, or
 * a third of a short life. It counts from when the token came, by the life that it says it has, so a clock that is wrong
 * does no harm. A provider that is down is asked again until it is there; one that refuses wants the person. So does a
 * server that refuses one fresh token after the other. Tokens that are forgotten are revoked at the provider.
 */

import { backoff } from "../stream/close-policy.js";
import { lifeOf } from "./jwt-claims.js";
import { authorizationUrl, discover, logoutUrl, newSecrets, OidcError, redeem, renew, revoke } from "./oidc.js";
import { arrival, depart, homeAddress } from "./oidc-redirect.js";

/** @import { OidcSettings, Provider, Tokens } from "./oidc.js" */

/**
 * @typedef {object} LoginListener
 * @property {(token: string) => void} onSignedIn   The person came back with a token.
 * @property {(token: string) => void} onRenewed
 * @property {(problem: string | null) => void} onTrouble  Renewing fails, or, with null, no longer does.
 */

const LEAD_MS = 60_000;
const RENEWAL_MIN_MS = 5_000; // However short a life a token says it has.
const REFUSED_MAX = 3;
const TIMER_MAX_MS = 2 ** 31 - 1;

export class Login {
  #settings;
  #listener;
  /** @type {Provider | null} */ #provider = null;
  /** @type {Tokens | null} */ #tokens = null;
  /** @type {Promise<string | null> | null} */ #renewing = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #dueAt = Infinity;
  #failures = 0;
  #unproven = 0;
  #begun = 0;

  /** @param {OidcSettings} settings @param {LoginListener} listener */
  constructor(settings, listener) {
    this.#settings = settings;
    this.#listener = listener;
    const wake = () => Date.now() >= this.#dueAt && this.#renewQuietly();
    addEventListener("online", wake);
    document.addEventListener("visibilitychange", () => document.hidden || wake()); // A laptop's sleep stops timers.
  }

  get issuer() {
    return this.#settings.issuer;
  }

  /** Whether tokens are renewed without a person, and the last attempt did not fail. */
  get renews() {
    return Boolean(this.#tokens?.refresh) && this.#failures === 0;
  }

  /** Whether the token that is in use came from here. */
  get signedIn() {
    return this.#tokens !== null;
  }

  /** Sends the person to the provider. Throws an OidcError where that cannot be done. */
  async begin() {
    this.#begun += 1;
    if (!isSecureContext) throw new OidcError("Signing in with a provider needs this page to be served over https.");
    const provider = await discover(this.#settings);
    const secrets = newSecrets();
    const url = await authorizationUrl(this.#settings, provider, secrets, homeAddress());
    try {
      depart({ ...secrets, issuer: this.issuer });
    } catch {
      throw new OidcError("This browser lets the page keep nothing while it is away. Allow it storage for this site.");
    }
    location.assign(url);
  }

  /** Goes on where the person came back from the provider. Throws an OidcError where the answer will not do. */
  async finish() {
    if (!arrival) return;
    const { departure, answer } = arrival;
    if (departure?.issuer !== this.issuer)
      throw new OidcError("This page did not ask for this sign-in. Sign in again.");
    this.#provider = await discover(this.#settings);
    this.#keep(await redeem(this.#settings, this.#provider, answer, departure, homeAddress()));
    this.#listener.onSignedIn(/** @type {Tokens} */ (this.#tokens).access);
  }

  /**
   * A fresh access token, or null where the person has to sign in again.
   * Throws an OidcError where the provider may have one later.
   */
  renew() {
    if (!this.#tokens?.refresh) return Promise.resolve(null);
    this.#renewing ??= this.#renew().finally(() => {
      this.#renewing = null;
    });
    return this.#renewing;
  }

  /**
   * The same for a token that the server refused. Where it refuses the fresh ones too, the login is forgotten: another
   * would be refused as well, and the person may have another way.
   */
  async replace() {
    if (this.#unproven >= REFUSED_MAX) this.forget();
    const token = await this.renew();
    if (token) this.#unproven += 1;
    return token;
  }

  /** The server takes the tokens. */
  proven() {
    this.#unproven = 0;
  }

  /** Forgets the tokens, here without waiting for anybody. */
  forget() {
    const tokens = this.#drop();
    if (tokens) this.#revokeQuietly(tokens);
  }

  /**
   * Signs out here, and then at the provider. Returns where to send the person to end their session there; null where that
   * cannot be done, or they are signing in again. Throws an OidcError where the provider is not there.
   */
  async signOut() {
    const [begun, renewing] = [this.#begun, this.#renewing];
    const tokens = this.#drop();
    if (!this.#provider || !tokens) return null;
    const [revoked, there] = await Promise.allSettled([
      revoke(this.#settings, this.#provider, tokens),
      discover(this.#settings), // A person who is sent to a provider that is down would be left with nothing.
      renewing, // What it brings is to be revoked too.
    ]);
    if (begun !== this.#begun) return null;
    if (there.status === "rejected") throw there.reason;
    const url = logoutUrl(this.#settings, this.#provider, tokens, homeAddress());
    if (!url && revoked.status === "rejected") throw revoked.reason;
    return url;
  }

  #drop() {
    const tokens = this.#tokens;
    clearTimeout(this.#timer);
    this.#dueAt = Infinity;
    this.#failures = this.#unproven = 0;
    this.#tokens = null;
    this.#listener.onTrouble(null);
    return tokens;
  }

  /** Nobody waits for it, and nobody can help where it fails. @param {Tokens} tokens */
  async #revokeQuietly(tokens) {
    try {
      await revoke(this.#settings, /** @type {Provider} */ (this.#provider), tokens);
    } catch (error) {
      if (!(error instanceof OidcError)) throw error;
    }
  }

  /** @returns {Promise<string | null>} */
  async #renew() {
    const before = /** @type {Tokens} */ (this.#tokens);
    try {
      const tokens = await renew(this.#settings, /** @type {Provider} */ (this.#provider), before);
      if (this.#tokens !== before) {
        this.#revokeQuietly(tokens); // Signed out in the meantime.
        return null;
      }
      this.#keep(tokens);
      this.#failures = 0;
      this.#listener.onTrouble(null);
      this.#listener.onRenewed(tokens.access);
      return tokens.access;
    } catch (error) {
      if (!(error instanceof OidcError)) throw error;
      if (this.#tokens !== before) return null;
      this.#failures += 1;
      this.#listener.onTrouble(error.message);
      if (error.passing) throw error;
      this.#tokens = { ...before, refresh: null };
      return null;
    }
  }

  /** @param {Tokens} tokens */
  #keep(tokens) {
    this.#tokens = tokens;
    if (!tokens.refresh) return;
    const life = lifeOf(tokens.access) * 1000;
    this.#renewIn(Math.max(RENEWAL_MIN_MS, life - Math.min(LEAD_MS, life / 3)));
  }

  /** @param {number} delay */
  #renewIn(delay) {
    clearTimeout(this.#timer);
    this.#dueAt = Date.now() + delay;
    this.#timer = setTimeout(() => this.#renewQuietly(), Math.min(delay, TIMER_MAX_MS));
  }

  async #renewQuietly() {
    try {
      await this.renew();
    } catch (error) {
      if (!(error instanceof OidcError)) throw error;
      if (this.#tokens) this.#renewIn(backoff(this.#failures));
    }
  }
}
