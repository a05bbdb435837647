/**
 * Topics and the patterns that cover them: `payments.cards`, `payments.*`, `*`.
 */

import { TOPIC_MAX_LENGTH, TOPIC_PATTERN } from "./wire-constants.js";

/** Whether a text is a topic, `<topic>.*` or `*`. @param {string} text */
export function isTopicPattern(text) {
  return text.length <= TOPIC_MAX_LENGTH && TOPIC_PATTERN.test(text);
}

/** Whether a pattern covers a topic; the twin of `covers` in service/topics.py. @param {string} pattern @param {string} topic */
export function covers(pattern, topic) {
  return pattern === "*" || pattern === topic || (pattern.endsWith(".*") && topic.startsWith(pattern.slice(0, -1)));
}
