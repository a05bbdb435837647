/**
 * What happened to an alert, oldest first, with what was said about it: loaded once, then kept current by events.
 *
 * Each event has its place in the log, so it does not matter whether the page of it or its frame comes first. A comment
 * that is being sent stands at the end until the log has it.
 */

import { element, foreign } from "./dom.js";
import { renderKeyed } from "./keyed.js";
import { render } from "./markdown.js";
import { age } from "./time.js";

/** @import { CommentStored, TimelineEvent } from "./wire.js" */
/** @import { KeyedItem } from "./keyed.js" */

/**
 * A comment that is not in the log yet, as far as we know.
 * @typedef {{actor: string, text: string, after: number, id: string | null, at: string}} Draft
 */

const REPEATED = "alert.repeated";
const COMMENTED = "alert.commented";

/** @type {Record<string, string>} */
const DID = {
  "alert.created": "raised it",
  "alert.acknowledged": "acknowledged it",
  "alert.resolved": "resolved it",
  "alert.reopened": "opened it again",
};

export class Timeline {
  #list;
  /** @type {Map<number, TimelineEvent>} */ #events = new Map();
  /** @type {Draft[]} */ #drafts = [];

  /** @param {HTMLElement} list */
  constructor(list) {
    this.#list = list;
  }

  clear() {
    this.#events.clear();
    this.#drafts = [];
    this.#list.replaceChildren();
  }

  /** The log position of the last event until a time; -1 where there is none. @param {string} [until]  RFC 3339, of the server. */
  positionAt(until) {
    let last = -1;
    for (const { seq, at } of this.#events.values()) if (seq > last && (!until || at <= until)) last = seq;
    return last;
  }

  /** @param {TimelineEvent[]} events */
  add(events) {
    for (const event of events) this.#events.set(event.seq, event);
    this.#render();
  }

  /**
   * Shows a comment that is being sent.
   * @param {string} actor
   * @param {string} text
   * @returns {{stored: (comment: CommentStored) => void, failed: () => void}}  To be told what became of it.
   */
  draft(actor, text) {
    /** @type {Draft} */ const draft = { actor, text, after: this.positionAt(), id: null, at: "" };
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
    const events = [...this.#events.values()].sort((a, b) => a.seq - b.seq);
    const comments = events.filter(({ kind }) => kind === COMMENTED);
    this.#drafts = this.#drafts.filter((draft) => !comments.some((event) => isOf(draft, event)));
    const drafts = this.#drafts;
    renderKeyed(this.#list, [...steps(events), ...drafts.map(draftItem)]);
  }
}

/** Whether an event is what became of a draft; it may be here before the answer. @param {Draft} draft @param {TimelineEvent} event */
function isOf({ id, actor, text, after }, { seq, actor: by, comment }) {
  return id ? comment?.id === id : seq > after && by === actor && comment?.text === text;
}

/**
 * One item an event, but one for all repetitions in a row: there may be one each second.
 * @param {TimelineEvent[]} events
 * @returns {KeyedItem[]}
 */
function steps(events) {
  /** @type {KeyedItem[]} */ const items = [];
  events.forEach((event, index) => {
    const before = events[index - 1];
    const graver = before && before.severity !== event.severity ? event.severity : null;
    const isRepeated = event.kind === REPEATED;
    if (isRepeated && !graver && before?.kind === REPEATED) items.pop();
    const key = isRepeated && !graver ? `repeated after ${lastOther(events, index)}` : String(event.seq);
    items.push({ key, state: `${event.seq}`, build: () => stepOf(event, graver) });
  });
  return items;
}

/** The last event before that is no mere repetition. @param {TimelineEvent[]} events @param {number} index */
function lastOther(events, index) {
  while (events[index]?.kind === REPEATED && events[index - 1]?.kind === REPEATED) index -= 1;
  return events[index - 1]?.seq ?? 0;
}

/** @param {TimelineEvent} event @param {string | null} severity  Where it is another than before. */
function stepOf(event, severity) {
  const { kind, comment, actor, at, seq } = event;
  const attributes = { class: "step", "data-kind": kind.replace("alert.", ""), "data-seq": String(seq) };
  if (kind === COMMENTED && comment) return element("li", attributes, ...commentOf(actor, comment.text, age(at)));
  const change = severity ? [` and is now ${severity}`] : [];
  return element("li", attributes, element("p", "", ...whatHappened(event), ...change, " ", age(at)));
}

/** @param {TimelineEvent} event @returns {(Node | string)[]} */
function whatHappened({ kind, actor, occurrences }) {
  switch (kind) {
    case REPEATED:
      return [`It occurred again, ${occurrences} times in all`];
    case "alert.expired":
      return ["It expired"];
    case "alert.escalated":
      return ["Nobody acknowledged it: it went to all who may see its topic"];
    default:
      return [foreign("actor", actor), ` ${DID[kind] ?? kind.replace("alert.", "")}`];
  }
}

/** @param {string} actor @param {string} text @param {Node | string} when */
function commentOf(actor, text, when) {
  return [
    element("p", "", foreign("actor", actor), " ", when),
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
