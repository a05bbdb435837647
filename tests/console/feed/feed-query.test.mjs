import assert from "node:assert/strict";
import test from "node:test";

import { ApiError } from "../../../service/console/auth/rest-api.js";
import { AlertPages } from "../../../service/console/feed/alert-pages.js";
import { FeedQuery } from "../../../service/console/feed/feed-query.js";
import { NO_FILTERS } from "../../../service/console/feed/filters.js";

const alert = (id, more = {}) => ({ id, title: id, topic: "infra", severity: "error", status: "open", ...more });
const page = (seqs, next = null) => ({ alerts: seqs.map((seq) => ({ ...alert(`a${seq}`), seq })), next, head: 100 });
const item = (sortKey, more = {}) => ({ id: `a${sortKey}`, sortKey, alert: alert(`a${sortKey}`, more) });

test("pages are asked for one after the other, until there is no next one", async () => {
  const queries = [];
  const pages = new AlertPages(new URLSearchParams({ status: "open" }));
  const fetchPage = async (query) => {
    queries.push(query.toString());
    return queries.length === 1 ? page([9, 8], "c1") : page([7]);
  };
  assert.deepEqual([pages.answered, pages.hasMore, pages.loadedDownTo], [false, true, Infinity]);
  pages.add(await pages.fetchNext(fetchPage));
  assert.deepEqual([pages.complete, pages.hasMore, pages.loadedDownTo], [false, true, 8]);
  pages.add(await pages.fetchNext(fetchPage));
  assert.deepEqual([pages.complete, pages.hasMore, pages.loadedDownTo], [true, false, 0]);
  assert.deepEqual(queries, ["status=open&limit=200", "status=open&limit=200&cursor=c1"]);
});

test("a page that fails says why, and older alerts that were dropped end the list", async () => {
  const pages = new AlertPages(new URLSearchParams());
  const failing = async () => {
    throw new ApiError("unreachable", 0, 0);
  };
  assert.equal(await pages.fetchNext(failing), null);
  assert.deepEqual([pages.problem, pages.loading], ["unreachable", false]);
  pages.add(page([9, 8], "c1"));
  pages.cutAt(9);
  assert.deepEqual([pages.problem, pages.loadedDownTo, pages.hasMore, pages.complete], [null, 9, false, false]);
});

test("an alert is in the list if it passes the filters and all from there on is loaded", () => {
  const query = new FeedQuery();
  assert.equal(query.hasStarted, false);
  query.restart(page([9, 8], "c1"));
  query.setFilters(NO_FILTERS);
  assert.deepEqual([query.includes(item(8)), query.includes(item(7)), query.isFiltered], [true, false, false]);
  query.setFilters({ ...NO_FILTERS, severity: "critical" });
  assert.deepEqual([query.isLoadingAll, query.loadedDownTo], [false, 8]);
  query.pages.add(page([9, 3], "c2"));
  assert.deepEqual([query.includes(item(5)), query.includes(item(5, { severity: "critical" }))], [false, true]);
});

test("filters need no request once all alerts are loaded, but a search does", () => {
  const query = new FeedQuery();
  query.restart(page([9, 8]));
  query.setFilters({ ...NO_FILTERS, status: "open" });
  assert.equal(query.isLoadingAll, true);
  query.setFilters({ ...NO_FILTERS, text: "pointed" });
  assert.equal(query.isLoadingAll, false);
});

test("a search shows what has the words, and what the server found", () => {
  const query = new FeedQuery();
  query.restart(page([9, 8, 7]));
  query.setFilters({ ...NO_FILTERS, text: "disk or tape" });
  const found = item(8);
  assert.equal(query.includes(found), false);
  query.pages.add(page([8]));
  query.noteFound(page([8]));
  assert.equal(query.includes(found), true);
  const arrived = { ...alert("a10"), title: "Tape is torn" };
  assert.deepEqual([query.matches(arrived), query.needsSearch(arrived)], [false, true]);
  assert.equal(query.needsSearch({ ...arrived, title: "No disk or tape" }), false);
});

test("a part of a title counts until the server, which knows what a word is, answers", () => {
  const query = new FeedQuery();
  query.restart(page([9]));
  query.setFilters({ ...NO_FILTERS, text: "ayment" });
  const part = item(9, { title: "Payments are slow" });
  assert.equal(query.includes(part), true);
  query.pages.add(page([]));
  assert.equal(query.includes(part), false);
});

test("the words of a whole event count after its body is gone", () => {
  const query = new FeedQuery();
  query.restart(page([9]));
  query.setFilters({ ...NO_FILTERS, text: "pointed" });
  query.pages.add(page([]));
  const { id, ...rest } = alert("a10");
  query.noteWords({ id, ...rest, body: "It is pointed." });
  assert.equal(query.includes(item(10)), true);
  query.setFilters({ ...NO_FILTERS, text: "pointed", status: "open" });
  assert.equal(query.includes(item(10)), false);
});
