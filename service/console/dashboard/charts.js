/**
 * Line charts, drawn as SVG, each with the table that it is drawn from.
 *
 * The last hour has most of the width, one point a minute; the last two minutes have the rest, one point a sample, on
 * their own background. So both the shape of the hour and the latest changes are visible.
 *
 *     |  -60 min        -30 min        | live       now |
 */

import { element } from "../ui/dom.js";
import { timeOfDay } from "../ui/format.js";

/**
 * @typedef {object} Series
 * @property {string} name
 * @property {string} className  A class that gives colour and dashes: `series-critical`, say.
 */

/** @typedef {{at: number, values: (number | null)[]}} Point  `at` in ms since the epoch; null: unknown. */

/**
 * @typedef {object} Plan
 * @property {string} title
 * @property {string} about  A sentence on what is measured.
 * @property {Series[]} series
 * @property {(value: number | null) => string} format
 * @property {(values: (number | null)[]) => number | null} [sum]  The large number; absent: that of the first series.
 * @property {number} least  The minimum for the top of the axis.
 * @property {string} id
 */

const HOUR_MS = 3_600_000;
export const LIVE_MS = 120_000;
const BREAK_MS = 100_000; // Points further apart are not connected: a minute is missing.
const HEIGHT = 168;
const MARGIN = { top: 10, right: 6, bottom: 22, left: 56 };
const LIVE_SHARE = 0.28;
const SVG = "http://www.w3.org/2000/svg";

export class ChartPanel extends HTMLElement {
  /** @type {Plan | null} */ #plan = null;
  /** @type {Point[]} */ #minutes = [];
  /** @type {Point[]} */ #live = [];
  #large = element("span", "figure-value");
  #legend = element("ul", "legend");
  #svg = svg("svg", { class: "chart", role: "img", height: String(HEIGHT) });
  #rows = element("tbody", "");
  #details = element("details", "chart-table");
  #resized = new ResizeObserver(() => this.#draw());

  /** @param {Plan} plan */
  plan(plan) {
    this.#plan = plan;
    const title = element("h3", { id: `${plan.id}-title` }, plan.title);
    const about = element("p", "about", plan.about);
    const heads = ["Time", ...plan.series.map(({ name }) => name)].map((name) => element("th", { scope: "col" }, name));
    const caption = element("caption", "", `${plan.title}, a row a minute; the first is now`);
    const table = element("table", "", caption, element("thead", "", element("tr", "", ...heads)), this.#rows);
    const scroll = element("div", { class: "table-scroll", tabindex: "0", role: "region" }, table);
    scroll.setAttribute("aria-label", `${plan.title}, table`);
    this.#details.append(element("summary", "", "Show as a table"), scroll);
    this.#details.addEventListener("toggle", () => this.#tabulate());
    this.dataset.testid = plan.id;
    this.append(element("div", "figure-head", title, this.#large), about, this.#legend, this.#svg, this.#details);
  }

  connectedCallback() {
    this.#resized.observe(this);
  }

  disconnectedCallback() {
    this.#resized.disconnect();
  }

  /** @param {Point[]} minutes  Oldest first. @param {Point[]} live  Oldest first. */
  show(minutes, live) {
    this.#minutes = minutes;
    this.#live = live;
    this.#showCurrent();
    this.#draw();
    this.#tabulate();
  }

  /** Shows the current values: the large number, the legend and the text alternative. */
  #showCurrent() {
    if (!this.#plan) return;
    const { format, series, sum, title } = this.#plan;
    const now = this.#live.at(-1)?.values ?? series.map(() => null);
    this.#large.textContent = format(sum ? sum(now) : now[0]);
    if (series.length > 1) {
      const entries = series.map(({ name, className }, index) => {
        const swatch = svg("svg", { class: `swatch ${className}`, width: "22", height: "8", "aria-hidden": "true" });
        swatch.append(svg("path", { d: "M1 4H21" }));
        return element("li", "", swatch, `${name} `, element("b", "", format(now[index])));
      });
      this.#legend.replaceChildren(...entries);
    }
    const words = series.map(({ name }, index) => `${name} ${format(now[index])}`).join(", ");
    this.#svg.setAttribute("aria-label", `${title}, the last hour as lines. Now: ${words}.`);
  }

  #draw() {
    const width = Math.floor(this.#svg.getBoundingClientRect().width);
    if (!this.#plan || width < 100) return; // Not shown.
    const { series, format, least } = this.#plan;
    const points = this.#drawn();
    const end = points.at(-1)?.at ?? 0;
    const top = niceTop(Math.max(least, ...points.flatMap(({ values }) => values.map(Number))));
    const left = MARGIN.left;
    const right = width - MARGIN.right;
    const middle = right - (right - left) * LIVE_SHARE;
    const bottom = HEIGHT - MARGIN.bottom;
    /** @param {number} value */
    const y = (value) => bottom - (Math.max(0, value) / top) * (bottom - MARGIN.top);
    /** @param {number} at */
    const x = (at) =>
      at >= end - LIVE_MS
        ? right - ((end - at) / LIVE_MS) * (right - middle)
        : left + (1 - (end - LIVE_MS - at) / (HOUR_MS - LIVE_MS)) * (middle - left);

    const ground = { x: middle, y: MARGIN.top - 6, width: right - middle, height: bottom - MARGIN.top + 6 };
    const grid = [0, top / 2, top].flatMap((value) => [
      svg("path", { class: "grid", d: `M${left} ${y(value)}H${right}` }),
      text(left - 8, y(value) + 4, "end", format(value)),
    ]);
    const ticks = [
      text(left, HEIGHT - 5, "start", "60 min ago"),
      text(middle, HEIGHT - 5, "middle", "2 min"),
      text(right, HEIGHT - 5, "end", "now"),
    ];
    const lines = series.map(({ className }, index) =>
      svg("g", { class: `line ${className}` }, path(points, index, x, y), dot(points, index, x, y)),
    );
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#svg.replaceChildren(svg("rect", { class: "live-ground", ...ground }), ...grid, ...ticks, ...lines);
  }

  /** The minutes, each at its middle, up to the first sample; then the samples. @returns {Point[]} */
  #drawn() {
    const end = this.#live.at(-1)?.at ?? this.#minutes.at(-1)?.at ?? 0;
    const live = this.#live.filter(({ at }) => at >= end - LIVE_MS);
    const from = live[0]?.at ?? Infinity;
    const minutes = this.#minutes.map(({ at, values }) => ({ at: at + 30_000, values }));
    return [...minutes.filter(({ at }) => at < from && at > end - HOUR_MS), ...live];
  }

  /** Fills the table while it is open. */
  #tabulate() {
    if (!this.#plan) return;
    if (!this.#details.open) return this.#rows.replaceChildren();
    const { format } = this.#plan;
    /** @param {string} when @param {Point} point */
    const row = (when, { values }) =>
      element(
        "tr",
        "",
        element("th", { scope: "row" }, when),
        ...values.map((value) => element("td", "", format(value))),
      );
    const now = this.#live.at(-1);
    const minutes = [...this.#minutes].reverse().map((point) => row(timeOfDay(point.at), point));
    this.#rows.replaceChildren(...(now ? [row("now", now)] : []), ...minutes);
  }
}

customElements.define("tocsin-chart", ChartPanel);

/**
 * A line through the known values.
 * @param {Point[]} points
 * @param {number} index
 * @param {(at: number) => number} x
 * @param {(value: number) => number} y
 */
function path(points, index, x, y) {
  let d = "";
  let before = -Infinity;
  for (const { at, values } of points) {
    const value = values[index];
    if (value === null) {
      before = -Infinity;
      continue;
    }
    const place = `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    d += at - before > BREAK_MS ? `M${place}h0` : `L${place}`;
    before = at;
  }
  return svg("path", { d });
}

/**
 * A dot at the end of the line.
 * @param {Point[]} points
 * @param {number} index
 * @param {(at: number) => number} x
 * @param {(value: number) => number} y
 */
function dot(points, index, x, y) {
  const last = points.at(-1);
  const value = last?.values[index] ?? null;
  if (!last || value === null) return svg("g", {});
  return svg("circle", { class: "dot", cx: x(last.at), cy: y(value), r: 3 });
}

/** The next number of 1, 2, 4, 6, 10, 20, …: half of it is a round number too. @param {number} highest */
function niceTop(highest) {
  const power = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 4, 6, 10].map((step) => step * power).find((step) => step >= highest) ?? highest;
}

/**
 * @param {number} x
 * @param {number} y
 * @param {"start" | "middle" | "end"} anchor
 * @param {string} content
 */
function text(x, y, anchor, content) {
  return svg("text", { x, y, "text-anchor": anchor }, content);
}

/**
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | number>} attributes
 * @param {...(Node | string)} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    node.setAttribute(name, typeof value === "number" ? String(Math.round(value * 10) / 10) : value);
  }
  node.append(...children);
  return node;
}
