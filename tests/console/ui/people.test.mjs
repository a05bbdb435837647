import assert from "node:assert/strict";
import test, { mock } from "node:test";

/** What people.js uses of an element: Node has no DOM. */
class FakeElement {
  dataset = /** @type {Record<string, string>} */ ({});
  title = "";
  children = /** @type {(FakeElement | string)[]} */ ([]);

  setAttribute(/** @type {string} */ name, /** @type {string} */ value) {
    if (name === "data-subject") this.dataset.subject = value;
  }
  removeAttribute() {}
  append(/** @type {(FakeElement | string)[]} */ ...children) {
    this.children.push(...children);
  }
  replaceChildren(/** @type {(FakeElement | string)[]} */ ...children) {
    this.children = children;
  }
  get childElementCount() {
    return this.children.filter((child) => typeof child !== "string").length;
  }
  /** @type {string} */
  get textContent() {
    return this.children.map((child) => (typeof child === "string" ? child : child.textContent)).join("");
  }
  set textContent(text) {
    this.children = [text];
  }
}

/** @type {FakeElement[]} */ let page = [];
Object.assign(globalThis, {
  document: { createElement: () => new FakeElement(), querySelectorAll: () => page },
});
const { askForNames, learnNames, person } = await import("../../../service/console/ui/people.js");

/** @param {string} subject */
function shown(subject) {
  const node = /** @type {FakeElement} */ (/** @type {unknown} */ (person("", subject)));
  page.push(node);
  return node;
}

test("all names of a page are asked for, in addresses that a proxy accepts", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  page = [];
  /** @type {string[][]} */ const asked = [];
  askForNames((subjects) => {
    asked.push(subjects);
    return Promise.resolve(Object.fromEntries(subjects.map((subject) => [subject, `Name of ${subject}`])));
  });
  const subjects = Array.from({ length: 150 }, (_, number) => `${number}`);
  const long = Array.from({ length: 30 }, (_, number) => "\u{1f600}".repeat(197) + number);
  const nodes = [...long, ...subjects].map(shown);
  for (let round = 0; round < 60; round += 1) {
    mock.timers.tick(100);
    await Promise.resolve();
  }
  mock.timers.reset();
  assert.deepEqual(asked.flat(), [...long, ...subjects]);
  for (const batch of asked) {
    assert.ok(batch.length <= 100);
    assert.ok(new URLSearchParams(batch.map((subject) => ["subject", subject])).toString().length < 8_000);
  }
  for (const node of nodes) assert.equal(node.textContent, `Name of ${node.dataset.subject}`);
});

test("who is on the page keeps their name, however many were learned", () => {
  page = [];
  askForNames(() => new Promise(() => {}));
  const alice = shown("a");
  learnNames([{ subject: "a", name: "Alice" }]);
  for (let number = 0; number <= 10_001; number += 1) learnNames([{ subject: `s${number}`, name: `Name ${number}` }]);
  assert.equal(alice.textContent, "Alice");
  learnNames([{ subject: "b", name: "alice" }]);
  assert.equal(alice.textContent, "Alice a");
  learnNames([{ subject: "b", name: null }]);
  assert.equal(alice.textContent, "Alice");
});
