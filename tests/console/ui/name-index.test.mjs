import assert from "node:assert/strict";
import test from "node:test";

import { NameIndex } from "../../../service/console/ui/name-index.js";

/** @param {Record<string, string | null>} names */
function indexOf(names) {
  const index = new NameIndex();
  for (const [subject, name] of Object.entries(names)) index.learn(subject, name);
  return index;
}

test("a name is ambiguous beside one that looks the same", () => {
  const others = [
    "Alice Liddell",
    "alice liddell",
    "Alice  Liddell",
    "Alice\u00a0Liddell\u2800",
    "Alice\u034f Liddell",
  ];
  for (const other of [...others, "\uff21lice Liddell", "Al\u00adice Lid\u200ddell"]) {
    const index = indexOf({ a: "Alice Liddell", b: other, c: "Alice B. Liddell" });
    assert.deepEqual(
      [..."abc"].map((subject) => index.isAmbiguous(subject)),
      [true, true, false],
      other,
    );
  }
});

test("a name is ambiguous beside a subject that looks the same, whoever comes first", () => {
  for (const name of ["root", "Root", "ro\u034fot", " root "]) {
    const named = indexOf({ "7c1f": name });
    assert.equal(named.isAmbiguous("7c1f"), false);
    assert.deepEqual(new Set(named.add("root")), new Set(["7c1f", "root"]));
    assert.equal(named.isAmbiguous("7c1f"), true);
    const shown = indexOf({ root: null, "7c1f": name });
    assert.deepEqual(
      ["7c1f", "root"].map((subject) => shown.isAmbiguous(subject)),
      [true, false],
    );
  }
});

test("whoever is named as their own subject is nobody else", () => {
  assert.equal(indexOf({ "alice@example.com": "Alice@example.com" }).isAmbiguous("alice@example.com"), false);
});

test("a change is said of all whom it concerns, and of nobody else", () => {
  const index = indexOf({ a: "Alice", b: "Bob", c: "Alice" });
  assert.deepEqual([...index.learn("b", "Bob")], []);
  assert.deepEqual(new Set(index.learn("c", "Bob")), new Set(["a", "b", "c"]));
  assert.deepEqual(
    [..."abc"].map((subject) => index.isAmbiguous(subject)),
    [false, true, true],
  );
  assert.deepEqual(new Set(index.learn("d", "Dave")), new Set(["d"]));
  assert.deepEqual(new Set(index.learn("c", null)), new Set(["b", "c"]));
  assert.equal(index.isAmbiguous("b"), false);
  assert.deepEqual([index.nameOf("c"), index.has("c"), index.has("e")], [null, true, false]);
});

test("those who are kept are compared with one another only", () => {
  const index = indexOf({ a: "Alice", b: "Alice", c: "Alice", alice: null });
  index.keep(new Set(["a"]));
  assert.deepEqual([index.size, index.nameOf("a"), index.isAmbiguous("a"), index.has("b")], [1, "Alice", false, false]);
  index.add("b");
  index.learn("b", "Alice");
  assert.equal(index.isAmbiguous("a"), true);
});

test("among ten thousand names, a new one concerns only who has the same", () => {
  const index = indexOf(
    Object.fromEntries(Array.from({ length: 10_000 }, (_, number) => [`s${number}`, `N ${number}`])),
  );
  assert.deepEqual([...index.learn("new", "New One")], ["new"]);
  assert.deepEqual(new Set(index.learn("newer", "N 77")), new Set(["newer", "s77"]));
});
