/**
 * The timeline of an alert: its events and comments, oldest first, loaded from the end and then kept current by events.
 *
 * Events are ordered by `seq`, so it does not matter whether a page or a frame brings them first. A comment that is being
 * sent is shown at the end until its event arrives.
 */

import { element, foreign } from "../ui/dom.js";
import { renderKeyed } from "../ui/keyed-list.js";
import { age } from "../ui/live-times.js";
import { person } from "../ui/people.js";
import { render } from "./markdown.js";
import { entriesOf, mergeEvents } from "./timeline-compaction.js";

/** @import { CommentOut, TimelineEvent } from "../stream/wire-types.js" */
/** @import { KeyedItem } from "../ui/keyed-list.js" */
/** @import { TimelineEntry } from "./timeline-compaction.js" */

/**
 * A comment whose event has not arrived yet.
 * @typedef {{actor: string, text: string, after: number, id: string | null, at: string}} Draft
 */

const CREATED = "alert.created";
const REPEATED = "alert.repeated";
const COMMENTED = "alert.commented";

/** @type {Record<string, string>} */
const ACTIONS = {
  [CREATED]: "raised it",
  "alert.acknowledged": "acknowledged it",
  "alert.resolved": "resolved it",
  "alert.reopened": "opened it again",
};

export class Timeline {
  #list;
  /** In the order of the log, compacted. @type {TimelineEvent[]} */ #events = [];
  /** Events that may be void, shown until others are loaded. @type {TimelineEvent[]} */ #unconfirmed = [];
  /** @type {Draft[]} */ #drafts = [];

  /** @param {HTMLElement} list */
  constructor(list) {
    this.#list = list;
  }

  clear() {
    this.#events = [];
    this.#unconfirmed = [];
    this.#drafts = [];
    this.#list.replaceChildren();
  }

  /**
   * The log position of an alert's last change, found by its time; -1: unknown. An event with
   * exactly that time comes first: the clocks of two servers may differ.
   * @param {string} updatedAt  RFC 3339, of the server.
   */
  positionAt(updatedAt) {
    const event =
      this.#events.findLast(({ at }) => at === updatedAt) ?? this.#events.findLast(({ at }) => at < updatedAt);
    return event?.seq ?? -1;
  }

  /** When an alert occurred last; null: not loaded yet. @param {number} occurrences */
  occurredAt(occurrences) {
    const last = this.#events.findLast(({ kind }) => kind === REPEATED || kind === CREATED);
    return last?.occurrences === occurrences ? last.at : null;
  }

  /**
   * The history of the log changed: events after a seq are void, or, with null, all may be. A comment that was stored is
   * among them, or comes with the events that are loaded.
   * @param {number | null} after
   */
  invalidate(after) {
    this.#unconfirmed = after === null ? mergeEvents(this.#unconfirmed, this.#events) : [];
    this.#events = this.#events.filter(({ seq }) => after !== null && seq <= after);
    this.#drafts = this.#drafts.filter(({ id }) => id === null);
    for (const draft of this.#drafts) draft.after = Math.min(draft.after, after ?? -1);
    this.#render();
  }

  /** Adds events that were loaded. @param {TimelineEvent[]} events */
  addPage(events) {
    this.#unconfirmed = [];
    this.add(events);
  }

  /** @param {TimelineEvent[]} events */
  add(events) {
    this.#events = mergeEvents(this.#events, events);
    this.#render();
  }

  /**
   * Shows a comment that is being sent.
   * @param {string} actor
   * @param {string} text
   * @returns {{stored: (comment: CommentOut) => void, failed: () => void}}  To be called with the outcome.
   */
  draft(actor, text) {
    /** @type {Draft} */ const draft = { actor, text, after: this.#events.at(-1)?.seq ?? -1, id: null, at: "" };
    this.#drafts.push(draft);
    this.#render();
    return {
      stored: ({ id, at }) => {
        Object.assign(draft, { id, at });
        this.#render();
      },
      failed: () => {
        this.#drafts = this.#drafts.filter((other) => other !== draft);
        this.#render();
      },
    };
  }

  #render() {
    const shown = mergeEvents(this.#unconfirmed, this.#events);
    const comments = this.#events.filter(({ kind }) => kind === COMMENTED);
    this.#drafts = this.#drafts.filter((draft) => !comments.some((event) => isEventOf(draft, event)));
    renderKeyed(this.#list, [...entriesOf(shown).map(entryItem), ...this.#drafts.map(draftItem)]);
  }
}

/** Whether an event is that of a draft; it may arrive before the response. @param {Draft} draft @param {TimelineEvent} event */
function isEventOf({ id, actor, text, after }, { seq, actor: by, comment }) {
  return id ? comment?.id === id : seq > after && by === actor && comment?.text === text;
}

/** @param {TimelineEntry} entry @returns {KeyedItem} */
function entryItem(entry) {
  const { key, event, severityChanged, isOutdated } = entry;
  const { seq, kind, at, actor } = event; // After a reset, another event may have the seq.
  const state = `${seq} ${kind} ${at} ${actor} ${severityChanged} ${isOutdated}`;
  return { key, state, build: () => elementOf(entry) };
}

/** @param {TimelineEntry} entry */
function elementOf({ event, severityChanged, isOutdated }) {
  const { kind, comment, actor, at, seq, severity } = event;
  const attributes = { class: "step", "data-kind": kind.replace("alert.", ""), "data-seq": String(seq) };
  if (kind === COMMENTED && comment) return element("li", attributes, ...commentOf(actor, comment.text, age(at)));
  const change = severityChanged ? [` and is now ${severity}`] : [];
  const description = element("p", "", ...descriptionOf(event), ...change, " ", age(at));
  return element("li", attributes, description, ...(isOutdated ? contentOf(event) : []));
}

/** What the alert said then. @param {TimelineEvent} event */
function contentOf({ title, body }) {
  const shown = [element("div", "", foreign("", title))];
  if (body) shown.push(element("div", { class: "markdown" }, ...render(body)));
  return [element("div", { class: "comment", "data-testid": "said" }, ...shown)];
}

/** @param {TimelineEvent} event @returns {(Node | string)[]} */
function descriptionOf({ kind, actor, occurrences }) {
  switch (kind) {
    case REPEATED:
      return [`It occurred again, ${occurrences} times in all`];
    case "alert.expired":
      return ["It expired"];
    case "alert.escalated":
      return ["Nobody acknowledged it: it went to all who may see its topic"];
    default:
      return [person("actor", actor), ` ${ACTIONS[kind] ?? kind.replace("alert.", "")}`];
  }
}

/** @param {string} actor @param {string} text @param {Node | string} when */
function commentOf(actor, text, when) {
  return [
    element("p", "", person("actor", actor), " ", when),
    element("div", { class: "comment markdown", "data-testid": "comment" }, ...render(text)),
  ];
}

/** @param {Draft} draft @param {number} index @returns {KeyedItem} */
function draftItem({ actor, text, at, id }, index) {
  return {
    key: id ?? `draft ${index}`,
    state: id ? "stored" : text,
    build: () => {
      const attributes = { class: id ? "step" : "step sending", "data-kind": "commented" };
      return element("li", attributes, ...commentOf(actor, text, id ? age(at) : "sending …"));
    },
  };
}
