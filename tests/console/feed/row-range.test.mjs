import assert from "node:assert/strict";
import test from "node:test";

import {
  firstWholeRow,
  rowsPerPage,
  rowsToRender,
  scrollTopToReveal,
} from "../../../service/console/feed/row-range.js";

const at = (scrollTop, more = {}) => ({ scrollTop, clientHeight: 100, rowHeight: 10, ...more });

test("the rows in view are rendered, and some before and after", () => {
  assert.deepEqual(rowsToRender(at(0), 1_000), { first: 0, last: 15 });
  assert.deepEqual(rowsToRender(at(505), 1_000), { first: 46, last: 65 });
  assert.deepEqual(rowsToRender(at(9_900), 1_000), { first: 985, last: 1_000 });
  assert.deepEqual(rowsToRender(at(0), 3), { first: 0, last: 3 });
  assert.deepEqual(rowsToRender(at(0), 0), { first: 0, last: 0 });
});

test("a list that became shorter than the scroll position shows its end", () => {
  assert.deepEqual(rowsToRender(at(9_900), 20), { first: 5, last: 20 });
});

test("nothing is rendered until the height of a row is known", () => {
  assert.deepEqual(rowsToRender(at(0, { rowHeight: 0 }), 10), { first: 0, last: 0 });
  assert.equal(firstWholeRow(at(0, { rowHeight: 0 })), 0);
});

test("a page leaves one row of overlap", () => {
  assert.deepEqual([rowsPerPage(at(0)), rowsPerPage(at(0, { clientHeight: 5 }))], [9, 1]);
  assert.deepEqual([firstWholeRow(at(0)), firstWholeRow(at(1)), firstWholeRow(at(20))], [0, 1, 2]);
});

test("a row is revealed with the least movement", () => {
  assert.equal(scrollTopToReveal(at(50), 7), 50);
  assert.equal(scrollTopToReveal(at(50), 2), 20);
  assert.equal(scrollTopToReveal(at(50), 30), 210);
});
