/**
 * The comment form. What was typed is kept, for each alert, until the server has stored it.
 */

import { ApiError } from "../auth/rest-api.js";
import { byId } from "../ui/dom.js";
import { explainFailure, MANAGE } from "./actions.js";

/** @import { CommentOut } from "../stream/wire-types.js" */
/** @import { Session } from "../auth/session.js" */
/** @import { Timeline } from "./timeline.js" */

/** @typedef {{text: string, key: string}} UnsentComment  With the same key, it is stored only once. */

export class CommentForm {
  #form = byId("comment-form");
  #field = /** @type {HTMLTextAreaElement} */ (byId("comment-text"));
  #button = /** @type {HTMLButtonElement} */ (byId("comment-send"));
  #timeline;
  #showError;
  /** @type {Session | null} */ #session = null;
  #id = "";
  /** @type {Map<string, UnsentComment>} By alert. */ #unsent = new Map();
  /** @type {Set<string>} The alerts whose comment is being sent. */ #sending = new Set();

  /**
   * @param {Timeline} timeline
   * @param {(id: string, message: string | Node) => void} showError  Also for an alert that is no longer open.
   */
  constructor(timeline, showError) {
    this.#timeline = timeline;
    this.#showError = showError;
    this.#field.addEventListener("input", () => this.#saveDraft());
    this.#field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#submit(event);
    });
    this.#form.addEventListener("submit", (event) => this.#submit(event));
  }

  /** @param {Session} session @param {string} id */
  open(session, id) {
    this.#session = session;
    this.#id = id;
    this.#field.value = this.#unsent.get(id)?.text ?? "";
    this.#update();
  }

  /** Moves the focus to the field. Returns whether the token allows comments. */
  focus() {
    if (!this.#session?.hasScope(MANAGE)) return false;
    this.#field.focus();
    this.#field.scrollIntoView({ block: "nearest" });
    return true;
  }

  /** What was typed and not stored. @param {string} id */
  unsent(id) {
    return this.#unsent.get(id)?.text.trim() ?? "";
  }

  /** The session ended: drops what was typed. */
  clear() {
    this.#session = null;
    this.#unsent.clear();
    this.#sending = new Set();
    this.#field.value = "";
  }

  #saveDraft() {
    const text = this.#field.value;
    if (text) this.#unsent.set(this.#id, { text, key: newKey() });
    else this.#unsent.delete(this.#id);
  }

  #update() {
    const isAllowed = this.#session?.hasScope(MANAGE) ?? false;
    this.#form.hidden = !isAllowed;
    this.#field.readOnly = this.#sending.has(this.#id);
    this.#button.setAttribute("aria-disabled", String(this.#field.readOnly));
  }

  /** @param {Event} event */
  async #submit(event) {
    event.preventDefault();
    const [session, id] = [this.#session, this.#id];
    const [unsent, sending] = [this.#unsent.get(id), this.#sending];
    if (!session || !unsent?.text.trim() || sending.has(id)) return;
    this.#showError(id, "");
    sending.add(id);
    this.#update();
    const draft = this.#timeline.draft(session.subject, unsent.text);
    try {
      const content = { body: { text: unsent.text }, idempotencyKey: unsent.key };
      /** @type {CommentOut} */ const stored = await session.post(`v1/alerts/${id}/comments`, content);
      if (session !== this.#session) return;
      draft.stored(stored);
      this.#unsent.delete(id);
      if (id === this.#id) this.#field.value = "";
    } catch (error) {
      draft.failed();
      if (!(error instanceof ApiError)) throw error;
      if (session === this.#session) this.#showError(id, explainFailure(error, "comment"));
    } finally {
      sending.delete(id);
      this.#update();
    }
  }
}

/** A page without TLS has no `crypto.randomUUID`. */
function newKey() {
  return `console-${Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-")}`;
}
