import assert from "node:assert/strict";
import test from "node:test";

import { containsText } from "../../service/console/feed/filters.js";

const passes = (text, title) => containsText(text, { title });

test("words are wanted without the punctuation around them, as the server does", () => {
  for (const text of ["disk, full", "(disk) full!", "full & disk", '"disk, full"', "disk:full", '"disk fu']) {
    assert.equal(passes(text, "Disk is full"), true, text);
    assert.equal(passes(text, "Disk is slow"), false, text);
  }
});

test("the letters typed so far narrow the list down", () => {
  assert.deepEqual(
    ["p", "pa", "pay", "payx"].map((text) => passes(text, "Payload")),
    [true, true, true, false],
  );
});

test("one of two is enough, until the second is typed the first alone counts", () => {
  for (const text of ["disk or tape", "disk OR tape", "tape or(disk", 'tape or "disk"', "disk or"]) {
    assert.equal(passes(text, "Disk is full"), true, text);
    assert.equal(passes(text, "Oracle is slow"), false, text);
  }
  assert.equal(passes("or", "Disk is full"), false);
  assert.equal(passes('"disk or tape"', "Disk is full"), false);
});

test("a dash hides what has the whole word, and nothing else", () => {
  for (const text of ["-pay", "- pay", "-pay,", "late -PAY"]) {
    assert.equal(passes(text, "Pay, late"), false, text);
    assert.equal(passes(text, "Payload late"), true, text);
  }
});

test("where only the server can tell, the page lets through", () => {
  const pairs = [
    ["-pay", "late at pay.example.com"], // one word: a host
    ["-pay", "late at /var/pay"],
    ["-pay", "<b pay> is late"], // a tag has no words
    ["--pay", "pay is late"],
    ['-"pay late"', "late: pay"],
    ["late or -a.b", "early"],
  ];
  for (const [text, title] of pairs) assert.equal(passes(text, title), true, text);
});
