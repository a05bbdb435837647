/**
 * The names that people are shown by. A name decides nothing, and its bearer may have chosen it: the subject stays with
 * it, in the tooltip, and is written beside it, in an element of its own, where the name may be taken for somebody else.
 *
 * An element shows the subject until the server was asked for the name; then all elements of the page are brought up to
 * date at once.
 */

import { element, foreign, write } from "./dom.js";
import { NameIndex } from "./name-index.js";

const ASK_AFTER_MS = 100;
const SUBJECTS_PER_REQUEST = 100;
const QUERY_MAX = 6_000; // Characters: proxies accept an address of 8 KiB.
const NAMES_MAX = 10_000;

const names = new NameIndex();
/** @type {Set<string>} */ const unknown = new Set();
/** @type {number | undefined} */ let timer;
/** @type {(subjects: string[]) => Promise<Record<string, string>>} */ let ask = async () => ({});

/** Sets whom to ask for names; for another session, all are forgotten. @param {typeof ask} fetchNames */
export function askForNames(fetchNames) {
  ask = fetchNames;
  forgetNames();
}

export function forgetNames() {
  clearTimeout(timer);
  timer = undefined;
  names.clear();
  unknown.clear();
}

/**
 * An element that shows somebody by name.
 * @param {string} className
 * @param {string} subject
 */
export function person(className, subject) {
  if (!names.has(subject)) {
    unknown.add(subject);
    timer ??= setTimeout(askNow, ASK_AFTER_MS);
    showAgain(names.add(subject));
  }
  const node = element("bdi", { class: className, dir: "auto", "data-subject": subject });
  show(node, subject);
  return node;
}

/** What somebody is shown by, for sorting. @param {string} subject */
export function nameOf(subject) {
  return names.nameOf(subject) ?? subject;
}

/** Learns names that came otherwise. @param {{subject: string, name: string | null}[]} learned */
export function learnNames(learned) {
  /** @type {Set<string>} */ const changed = new Set();
  for (const { subject, name } of learned) {
    for (const one of names.learn(subject, name)) changed.add(one);
    unknown.delete(subject);
  }
  showAgain(changed);
  if (names.size > NAMES_MAX) names.keep(new Set(shown().map(({ dataset }) => dataset.subject ?? "")));
}

async function askNow() {
  timer = undefined;
  const subjects = batchOf(unknown);
  if (!subjects.length) return; // Their names came otherwise meanwhile.
  for (const subject of subjects) unknown.delete(subject);
  if (unknown.size) timer = setTimeout(askNow, ASK_AFTER_MS);
  const asked = ask;
  const found = await ask(subjects).catch(() => null); // Names are optional: the subject is shown.
  if (found && ask === asked) learnNames(subjects.map((subject) => ({ subject, name: found[subject] ?? null })));
}

/** The first of the subjects, as many as one address holds. @param {Iterable<string>} subjects */
function batchOf(subjects) {
  /** @type {string[]} */ const batch = [];
  let length = 0;
  for (const subject of subjects) {
    length += `&${new URLSearchParams({ subject })}`.length;
    if (batch.length === SUBJECTS_PER_REQUEST || (batch.length && length > QUERY_MAX)) break;
    batch.push(subject);
  }
  return batch;
}

/** The elements of the page that show somebody. */
function shown() {
  return /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-subject]")]);
}

/** @param {Iterable<string>} subjects */
function showAgain(subjects) {
  const changed = new Set(subjects);
  if (!changed.size) return;
  for (const node of shown()) {
    const { subject = "" } = node.dataset;
    if (changed.has(subject)) show(node, subject);
  }
}

/** @param {HTMLElement} node @param {string} subject */
function show(node, subject) {
  const name = nameOf(subject);
  if (names.isAmbiguous(subject)) node.replaceChildren(name, " ", foreign("subject", subject));
  else if (node.childElementCount) node.replaceChildren(name);
  else write(node, name);
  if (name !== subject) node.title = subject;
  else node.removeAttribute("title");
}
