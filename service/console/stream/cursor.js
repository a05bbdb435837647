/**
 * Cursors: positions of the log, as a client holds them. `4711-9f3a2c1d` is the seq of an event and its mark, the first
 * digits of its id, by which the server can tell whether its log is still the one that the cursor is of. `0` is the
 * beginning of the log. A bare seq, `4711`, cannot be checked.
 */

/** The seq of a cursor; 0 where there is none. @param {string | null} cursor */
export function seqOf(cursor) {
  return cursor === null ? 0 : parseInt(cursor, 10);
}

/**
 * A cursor with the mark that it lacks, if the other one is of the same seq and has it; null becomes the other one.
 * @param {string | null} cursor
 * @param {string} other
 */
export function marked(cursor, other) {
  return cursor === null || other.startsWith(`${cursor}-`) ? other : cursor;
}

/** The further one of two cursors. @param {string | null} cursor @param {string} other */
export function furthest(cursor, other) {
  return seqOf(other) > seqOf(cursor) ? other : marked(cursor, other);
}
