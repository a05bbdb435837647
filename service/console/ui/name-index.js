/**
 * Who is shown by which name, and whose name could be taken for that of somebody else: for another's name, or for
 * another's subject, which is all that is shown of whom no token names.
 */

/** What two texts have in common that look the same, or differ in capitals only. @param {string} text */
function fold(text) {
  const drawn = text.normalize("NFKC").replace(/\p{Default_Ignorable_Code_Point}/gu, "");
  return drawn
    .replace(/[\s\u2800]+/gu, " ")
    .trim()
    .toLowerCase();
}

export class NameIndex {
  /** By subject; null: there is none; undefined: it was not asked for. @type {Map<string, string | null | undefined>} */
  #names = new Map();
  /** By folded text, the subjects that are it, or are named so. @type {Map<string, Set<string>>} */ #subjects =
    new Map();

  get size() {
    return this.#names.size;
  }

  /** Whether it is known how a subject is shown. @param {string} subject */
  has(subject) {
    return this.#names.get(subject) !== undefined;
  }

  /** @param {string} subject */
  nameOf(subject) {
    return this.#names.get(subject) ?? null;
  }

  /** Whether the name of a subject may be taken for somebody else. @param {string} subject */
  isAmbiguous(subject) {
    const name = this.nameOf(subject);
    return name !== null && (this.#subjects.get(fold(name))?.size ?? 0) > 1;
  }

  /**
   * Adds a subject that is shown, before its name is known. Returns whom to show again.
   * @param {string} subject
   * @returns {Iterable<string>}
   */
  add(subject) {
    if (this.#names.has(subject)) return [];
    this.#names.set(subject, undefined);
    const alike = this.#alike(subject).add(subject);
    return alike.size > 1 ? alike : [];
  }

  /**
   * Sets the name of a subject. Returns whom to show again.
   * @param {string} subject
   * @param {string | null} name
   * @returns {Iterable<string>}
   */
  learn(subject, name) {
    const before = this.#names.get(subject);
    if (before === name) return [];
    const changed = new Set([subject, ...this.add(subject)]);
    if (before) {
      for (const one of this.#alike(before)) changed.add(one);
      this.#remove(subject, fold(before));
      this.#alike(subject).add(subject);
    }
    this.#names.set(subject, name);
    if (name !== null) for (const one of this.#alike(name).add(subject)) changed.add(one);
    return changed;
  }

  /** Forgets all but these. @param {Set<string>} subjects */
  keep(subjects) {
    for (const [subject, name] of this.#names) {
      if (subjects.has(subject)) continue;
      this.#names.delete(subject);
      for (const text of [subject, name]) if (text) this.#remove(subject, fold(text));
    }
  }

  clear() {
    this.#names.clear();
    this.#subjects.clear();
  }

  /** The subjects that are a text, or are named so. @param {string} text */
  #alike(text) {
    const folded = fold(text);
    const subjects = this.#subjects.get(folded) ?? new Set();
    this.#subjects.set(folded, subjects);
    return subjects;
  }

  /** @param {string} subject @param {string} folded */
  #remove(subject, folded) {
    const subjects = this.#subjects.get(folded);
    subjects?.delete(subject);
    if (subjects?.size === 0) this.#subjects.delete(folded);
  }
}
