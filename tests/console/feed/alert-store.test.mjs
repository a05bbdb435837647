import assert from "node:assert/strict";
import test from "node:test";

import { AlertStore } from "../../../service/console/feed/alert-store.js";

const alert = (id, more = {}) => ({
  id,
  title: id,
  body: "long",
  created_at: "2026-01-01T00:00:00Z",
  updated_at: "1",
  ...more,
});
const event = (id, seq, more) => ({ alert: alert(id, more), at: { position: seq, seq, isEvent: true } });
const listed = (id, seq, head, more) => ({ alert: alert(id, more), at: { position: head, seq, isEvent: false } });
const ids = (store) => store.items.map(({ id }) => id);

test("alerts are in the order in which they were raised, whichever came first", () => {
  const store = new AlertStore();
  store.put([event("c", 30)]);
  store.put([listed("b", 20, 25), listed("a", 10, 25)]);
  assert.deepEqual(ids(store), ["a", "b", "c"]);
  assert.equal("body" in store.get("a").alert, false);
});

test("an alert only moves forward: an older page does not undo an event", () => {
  const store = new AlertStore();
  store.put([listed("a", 10, 20, { title: "old" })]);
  assert.equal(store.put([event("a", 21, { title: "new" })]).length, 1);
  assert.equal(store.put([listed("a", 10, 20, { title: "old" })]).length, 0);
  assert.equal(store.get("a").alert.title, "new");
  assert.equal(store.get("a").sortKey, 10);
});

test("events of an alert that is not loaded win over a page that is older", () => {
  const store = new AlertStore();
  store.keepUnloaded(alert("a", { title: "new" }), { position: 30, seq: 30, isEvent: true });
  assert.equal(store.known("a").title, "new");
  assert.equal(store.unloadedAfter(30).length, 0);
  assert.equal(store.unloadedAfter(29).length, 1);
  store.put([listed("a", 10, 20, { title: "old" })]);
  assert.deepEqual([store.get("a").alert.title, store.get("a").sortKey], ["new", 10]);
  assert.equal(store.unloadedAfter(0).length, 0);
});

test("the newest known version is found whether it is loaded, unloaded or given", () => {
  const store = new AlertStore();
  store.put([event("a", 20, { title: "loaded" })]);
  assert.equal(store.newest(listed("a", 10, 15)).title, "loaded");
  assert.equal(store.newest(listed("a", 10, 25, { title: "given" })).title, "given");
  store.keepUnloaded(alert("b", { title: "unloaded" }), { position: 20, seq: 20, isEvent: true });
  assert.equal(store.newest(listed("b", 10, 15)).title, "unloaded");
});

test("an alert whose raising event is unknown sorts below all that were not created before it", () => {
  const store = new AlertStore();
  store.put([event("a", 10, { created_at: "1" }), event("b", 20, { created_at: "3" })]);
  assert.equal(store.sortKeyOf({ created_at: "2" }), 15);
  assert.equal(store.sortKeyOf({ created_at: "3" }), 15);
  assert.equal(store.sortKeyOf({ created_at: "0" }), 5);
  assert.ok(store.sortKeyOf({ created_at: "4" }) > 20);
});

test("a response is shown unless a newer event is", () => {
  const store = new AlertStore();
  store.put([event("a", 10, { updated_at: "2" })]);
  store.applyResponse(alert("a", { updated_at: "1", title: "older" }));
  assert.equal(store.get("a").alert.title, "a");
  store.applyResponse(alert("a", { updated_at: "3", title: "newer" }));
  assert.equal(store.get("a").alert.title, "newer");
});

test("after a reset, what was raised later is gone, and what changed later gives way to any version", () => {
  const store = new AlertStore();
  store.put([listed("kept", 10, 20), event("raised", 40)]);
  store.put([event("changed", 15), event("changed", 35, { title: "void" })]);
  store.keepUnloaded(alert("unloaded"), { position: 36, seq: 36, isEvent: true });
  assert.deepEqual(
    store.invalidate(30).map(({ id }) => id),
    ["raised"],
  );
  assert.deepEqual([ids(store), store.known("unloaded")], [["kept", "changed"], null]);
  assert.equal(store.put([listed("kept", 10, 20)]).length, 0);
  assert.equal(store.put([listed("changed", 15, 30, { title: "true" })]).length, 1);
  assert.equal(store.get("changed").alert.title, "true");
  assert.equal(store.put([event("new", 31)]).length, 1);
});

test("where all may be void, alerts stay until a list says what there is", () => {
  const store = new AlertStore();
  store.put([listed("a", 10, 4_711), event("b", 4_712)]);
  assert.deepEqual([store.invalidate(null), ids(store)], [[], ["a", "b"]]);
  assert.equal(store.put([listed("a", 10, 12, { title: "true" })]).length, 1);
});

test("a version that says the same is no change to show", () => {
  const store = new AlertStore();
  store.put([listed("a", 10, 20)]);
  const { version } = store.get("a");
  store.put([listed("a", 10, 30)]);
  assert.equal(store.get("a").version, version);
  store.put([listed("a", 10, 40, { title: "another" })]);
  assert.equal(store.get("a").version, version + 1);
});
