/**
 * Which rows of a long list are in view: arithmetic, because all rows have one height.
 */

const MARGIN_ROWS = 4;

/**
 * @typedef {object} Viewport
 * @property {number} scrollTop
 * @property {number} clientHeight
 * @property {number} rowHeight  0: not known yet.
 */

/**
 * The rows to render: those in view and a few before and after.
 * @param {Viewport} viewport
 * @param {number} count  Of all rows.
 * @returns {{first: number, last: number}}  From the top; `last` is excluded.
 */
export function rowsToRender({ scrollTop, clientHeight, rowHeight }, count) {
  if (!rowHeight) return { first: 0, last: 0 };
  const inView = Math.ceil(clientHeight / rowHeight) + 1;
  // If the list has become shorter, the browser corrects its scroll position only in the next layout.
  const top = Math.max(0, Math.min(Math.floor(scrollTop / rowHeight), count - inView));
  return { first: Math.max(0, top - MARGIN_ROWS), last: Math.min(count, top + inView + MARGIN_ROWS) };
}

/** The first row that is wholly in view. @param {Viewport} viewport */
export function firstWholeRow({ scrollTop, rowHeight }) {
  return rowHeight ? Math.ceil(scrollTop / rowHeight) : 0;
}

/** By how many rows Page Down moves, at least 1. @param {Viewport} viewport */
export function rowsPerPage({ clientHeight, rowHeight }) {
  return Math.max(1, Math.floor(clientHeight / (rowHeight || 1)) - 1);
}

/** The scroll position that brings a row into view with the least movement. @param {Viewport} viewport @param {number} index */
export function scrollTopToReveal({ scrollTop, clientHeight, rowHeight }, index) {
  const top = index * rowHeight;
  return Math.max(Math.min(scrollTop, top), top + rowHeight - clientHeight);
}
