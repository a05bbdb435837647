/**
 * A small and safe subset of Markdown: paragraphs, lists, code, emphasis, links to the web.
 *
 *     text --parse--> blocks of inlines, plain objects --render--> DOM nodes
 *
 * HTML is not parsed: whatever the text, the nodes are those that `render` creates. Anything else is shown as it is
 * written, with backslashes and indentation, because most alerts are written by programs that do not use Markdown. Each
 * pattern is bounded, so that a hostile text costs about as much as any other.
 */

import { element, foreign } from "../ui/dom.js";
import { linkTo, webAddress } from "./links.js";

/**
 * @typedef {{type: "text" | "code", text: string}
 *   | {type: "strong" | "em", content: Inline[]}
 *   | {type: "link", text: string, url: string}} Inline
 */
/** @typedef {{content: Inline[], lists: List[]}} Item */
/** @typedef {{type: "list", ordered: boolean, start: number, items: Item[]}} List */
/** @typedef {{type: "paragraph", content: Inline[]} | {type: "code", text: string} | List} Block */

const FENCE = /^ {0,3}(`{3,}(?!`)|~{3,}(?!~))[^`]*$/;
const ITEM = /^( *)(?:[-*]|(\d{1,4})[.)]) +(?=\S)(.*)$/;
const DEEPEST = 4;
const BIDI_CONTROL = /[\u202a-\u202e\u2066-\u2069]/;

/** @typedef {(found: RegExpExecArray, depth: number) => Inline | null} Read */

/** The inline elements; the first that matches is used. @type {[RegExp, Read][]} */
const INLINES = [
  [/(?<!`)(`{1,3})(?!`)([^\n]{1,2000}?)(?<!`)\1(?!`)/y, ([, , text]) => ({ type: "code", text: unpadded(text) })],
  [/\[([^[\]\n]{1,300})\]\((https?:\/\/[^\s()<>]{1,2000})\)/y, ([, text, url]) => link(text, url)],
  [/(?<![\p{L}\p{N}])https?:\/\/[^\s<>"`]{1,2000}(?<![.,;:!?'*_)\]}])/uy, ([url]) => link(url, url)],
  [
    /\*\*(?=[^\s*])([^\n]{1,500}?)(?<=[^\s*])\*\*/y,
    ([, text], depth) => ({ type: "strong", content: inlines(text, depth) }),
  ],
  [/(?<![\p{L}\p{N}*])\*(?=[^\s*])([^*\n]{1,500}?)(?<=\S)\*(?![\p{L}\p{N}*])/uy, emphasis],
  [/(?<![\p{L}\p{N}_])_(?=[^\s_])([^\n]{1,500}?)(?<=[^\s_])_(?![\p{L}\p{N}_])/uy, emphasis],
];

/** Where one of them may start. */
const BEGINNING = /[`[*_]|https?:/g;

/**
 * The nodes for a text.
 * @param {string} text
 * @returns {HTMLElement[]}
 */
export function render(text) {
  return parse(text).map(blockNode);
}

/**
 * @param {string} text
 * @returns {Block[]}
 */
export function parse(text) {
  /** @type {Block[]} */ const blocks = [];
  /** @type {string[]} */ let paragraph = [];
  const lines = text.split(/\r\n|\r|\n/);
  let next = 0;

  function endParagraph() {
    if (paragraph.length) blocks.push({ type: "paragraph", content: inlines(paragraph.join("\n"), 0) });
    paragraph = [];
  }

  while (next < lines.length) {
    const line = lines[next];
    const fence = FENCE.exec(line)?.[1];
    const item = ITEM.exec(line);
    if (fence) {
      endParagraph();
      const end = endOfCode(lines, next + 1, fence);
      blocks.push({ type: "code", text: lines.slice(next + 1, end).join("\n") });
      next = end + 1;
    } else if (item && (!paragraph.length || Number(item[2] ?? 1) === 1)) {
      endParagraph();
      const end = endOfList(lines, next);
      blocks.push(...lists(lines.slice(next, end), 1));
      next = end;
    } else {
      if (line.trim()) paragraph.push(line);
      else endParagraph();
      next += 1;
    }
  }
  endParagraph();
  return blocks;
}

/** A code block without an end continues to the last line. @param {string[]} lines @param {number} from @param {string} fence */
function endOfCode(lines, from, fence) {
  const closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}\\s*$`);
  const end = lines.findIndex((line, index) => index >= from && closing.test(line));
  return end < 0 ? lines.length : end;
}

/** A list continues with items and indented lines. @param {string[]} lines @param {number} from */
function endOfList(lines, from) {
  let end = from + 1;
  while (end < lines.length && (ITEM.test(lines[end]) || /^ {2,}\S/.test(lines[end])) && !FENCE.test(lines[end]))
    end += 1;
  return end;
}

/**
 * The first line is an item; an item that is indented further belongs to the one before it.
 * @param {string[]} lines
 * @param {number} depth
 * @returns {List[]}
 */
function lists(lines, depth) {
  const indent = indentOf(lines[0]);
  /** @type {{list: List, text: string[], inner: string[]}[]} */ const found = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    const last = found.at(-1);
    const isInner = last && item && item[1].length >= indent + 2 && depth < DEEPEST;
    if (isInner || (last?.inner.length && !item)) {
      last.inner.push(line);
    } else if (item) {
      const ordered = item[2] !== undefined;
      const list = last?.list.ordered === ordered ? last.list : newList(ordered, Number(item[2] ?? 1));
      found.push({ list, text: [item[3]], inner: [] });
    } else {
      last?.text.push(line.trim());
    }
  }
  for (const { list, text, inner } of found) {
    list.items.push({ content: inlines(text.join("\n"), 0), lists: inner.length ? lists(inner, depth + 1) : [] });
  }
  return [...new Set(found.map(({ list }) => list))];
}

/** @param {boolean} ordered @param {number} start @returns {List} */
function newList(ordered, start) {
  return { type: "list", ordered, start, items: [] };
}

/** @param {string} line */
function indentOf(line) {
  return line.length - line.trimStart().length;
}

/**
 * @param {string} text
 * @param {number} depth  Of nested emphasis.
 * @returns {Inline[]}
 */
function inlines(text, depth) {
  /** @type {Inline[]} */ const found = [];
  let plainFrom = 0;
  let at = depth > DEEPEST ? -1 : nextBeginning(text, 0);
  while (at >= 0) {
    const [inline, end] = inlineAt(text, at, depth);
    if (inline) {
      if (at > plainFrom) found.push({ type: "text", text: text.slice(plainFrom, at) });
      found.push(inline);
      plainFrom = end;
    }
    at = nextBeginning(text, inline ? end : at + 1);
  }
  if (plainFrom < text.length) found.push({ type: "text", text: text.slice(plainFrom) });
  return found;
}

/** @param {string} text @param {number} from */
function nextBeginning(text, from) {
  BEGINNING.lastIndex = from;
  return BEGINNING.exec(text)?.index ?? -1;
}

/**
 * @param {string} text
 * @param {number} at
 * @param {number} depth
 * @returns {[Inline | null, number]}  And where it ends.
 */
function inlineAt(text, at, depth) {
  for (const [pattern, read] of INLINES) {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    const inline = found && read(found, depth + 1);
    if (inline) return [inline, at + found[0].length];
  }
  return [null, at];
}

/** @param {RegExpExecArray} found @param {number} depth @returns {Inline} */
function emphasis([, text], depth) {
  return { type: "em", content: inlines(text, depth) };
}

/** @param {string} text @param {string} url @returns {Inline | null} */
function link(text, url) {
  return webAddress(url) && { type: "link", text, url };
}

/** Code that starts or ends with a backtick is written with spaces around it. @param {string} text */
function unpadded(text) {
  return text.startsWith(" ") && text.endsWith(" ") && text.trim() ? text.slice(1, -1) : text;
}

/** @param {Block} block @returns {HTMLElement} */
function blockNode(block) {
  switch (block.type) {
    case "paragraph":
      return element("p", { dir: "auto" }, ...block.content.map(inlineNode));
    case "code":
      return element("pre", "", element("code", { dir: "auto" }, block.text));
    case "list":
      return listNode(block);
  }
}

/** @param {List} list @returns {HTMLElement} */
function listNode({ ordered, start, items }) {
  const nodes = items.map(({ content, lists }) =>
    element("li", { dir: "auto" }, ...content.map(inlineNode), ...lists.map(listNode)),
  );
  return ordered ? element("ol", { start: String(start) }, ...nodes) : element("ul", "", ...nodes);
}

/** @param {Inline} inline @returns {Node | string} */
function inlineNode(inline) {
  switch (inline.type) {
    case "text":
      // An unterminated override would affect the text behind it.
      return BIDI_CONTROL.test(inline.text) ? foreign("", inline.text) : inline.text;
    case "code":
      return element("code", { dir: "auto" }, inline.text);
    case "link":
      return linkTo(inline.text, inline.url);
    default:
      return element(inline.type, "", ...inline.content.map(inlineNode));
  }
}
