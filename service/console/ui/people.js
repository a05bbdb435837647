/**
 * The names that people are shown by. A name decides nothing, and its bearer may have chosen it: the subject stays with
 * it, in the tooltip, and is written beside it where two subjects have the same name.
 *
 * An element shows the subject until the server was asked for the name; then all elements of the page are brought up to
 * date at once.
 */

import { element, write } from "./dom.js";

const ASK_AFTER_MS = 100;
const SUBJECTS_PER_REQUEST = 100;
const NAMES_MAX = 10_000;

/** By subject; null: there is none. @type {Map<string, string | null>} */ const names = new Map();
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
  }
  const node = element("bdi", { class: className, dir: "auto", "data-subject": subject });
  show(node, subject);
  return node;
}

/** Learns names that came otherwise. @param {{subject: string, name: string | null}[]} learned */
export function learnNames(learned) {
  if (names.size > NAMES_MAX) names.clear();
  const isNews = learned.filter(({ subject, name }) => names.get(subject) !== name);
  for (const { subject, name } of isNews) {
    names.set(subject, name);
    unknown.delete(subject);
  }
  if (!isNews.some(({ name }) => name)) return;
  for (const node of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-subject]"))) {
    show(node, node.dataset.subject ?? "");
  }
}

async function askNow() {
  timer = undefined;
  const subjects = [...unknown].slice(0, SUBJECTS_PER_REQUEST);
  if (!subjects.length) return; // Their names came otherwise meanwhile.
  for (const subject of subjects) unknown.delete(subject);
  if (unknown.size) timer = setTimeout(askNow, ASK_AFTER_MS);
  const asked = ask;
  const found = await ask(subjects).catch(() => null); // Names are optional: the subject is shown.
  if (found && ask === asked) learnNames(subjects.map((subject) => ({ subject, name: found[subject] ?? null })));
}

/** @param {HTMLElement} node @param {string} subject */
function show(node, subject) {
  const name = names.get(subject);
  const isShared = name && [...names].some(([other, its]) => its === name && other !== subject);
  write(node, name ? (isShared ? `${name} (${subject})` : name) : subject);
  if (name && name !== subject) node.title = subject;
}
