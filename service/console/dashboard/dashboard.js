/**
 * The dashboard: the state of the service. Its stream is open only while the dashboard is visible: with another route open
 * or the tab in the background, the stream is closed and the server takes no samples.
 */

import { closePolicy } from "../stream/close-policy.js";
import { SEVERITIES } from "../stream/wire-constants.js";
import { byId, element, write } from "../ui/dom.js";
import { explain } from "../ui/error-messages.js";
import { bytes, count, duration, rate, secondOfDay, UNKNOWN } from "../ui/format.js";
import { onRoute } from "../ui/router.js";
import { LIVE_MS } from "./charts.js";
import { StatsStream } from "./stats-stream.js";

/** @import { ChartPanel, Plan, Series } from "./charts.js" */
/** @import { Figures, History, Latency, Minute } from "./stats-stream.js" */

/**
 * @typedef {object} Chart
 * @property {Plan} plan
 * @property {(minute: Minute, seconds: number) => (number | null)[]} ofMinute
 * @property {(figures: Figures) => (number | null)[]} ofNow
 */

const MOST_SEVERE_FIRST = [...SEVERITIES].reverse();
const STALE_MS = 7_000;
const LOOK_MS = 1_000;

/** @type {Chart[]} */
const CHARTS = [
  {
    plan: {
      id: "chart-alerts",
      title: "Alerts",
      about: "Posted a second, by severity.",
      series: MOST_SEVERE_FIRST.map((name) => ({ name, className: `series-${name}` })),
      format: rate,
      least: 0.1,
      sum: (values) => (values.includes(null) ? null : values.reduce((sum, value) => Number(sum) + Number(value), 0)),
    },
    ofMinute: ({ alerts }, seconds) => MOST_SEVERE_FIRST.map((name) => alerts[name] / seconds),
    ofNow: ({ alerts }) => MOST_SEVERE_FIRST.map((name) => alerts?.[name] ?? null),
  },
  {
    plan: {
      id: "chart-deliveries",
      title: "Deliveries",
      about: "Events written to a socket a second: one for each event and each screen.",
      series: [{ name: "deliveries", className: "series-a" }],
      format: rate,
      least: 0.1,
    },
    ofMinute: ({ deliveries }, seconds) => [deliveries === null ? null : deliveries / seconds],
    ofNow: ({ deliveries }) => [deliveries],
  },
  latencyChart(
    "sent",
    "Post to sent",
    "From the alert until its last byte has gone to the socket; of the last minute.",
  ),
  latencyChart(
    "received",
    "Sent to received",
    "From the socket until the admin's page confirmed it; of the last minute.",
  ),
  {
    plan: {
      id: "chart-connections",
      title: "Connections",
      about: "Streams that are open; of a minute, the most.",
      series: [{ name: "connections", className: "series-a" }],
      format: count,
      least: 2,
    },
    ofMinute: ({ connections }) => [connections],
    ofNow: ({ connections }) => [connections],
  },
];

/** @param {"sent" | "received"} part @param {string} title @param {string} about @returns {Chart} */
function latencyChart(part, title, about) {
  const series = /** @type {Series[]} */ ([
    { name: "median", className: "series-a" },
    { name: "99th percentile", className: "series-b" },
  ]);
  /** @param {Latency | null} latency */
  const values = (latency) => [latency?.[`${part}_p50`] ?? null, latency?.[`${part}_p99`] ?? null];
  return {
    plan: { id: `chart-${part}`, title, about, series, format: duration, least: 0.001 },
    ofMinute: ({ latency }) => values(latency),
    ofNow: ({ latency }) => values(latency),
  };
}

export class Dashboard {
  #section = byId("dashboard");
  #state = byId("dashboard-state");
  #facts = byId("dashboard-facts");
  #charts = CHARTS.map((chart) => {
    const panel = /** @type {ChartPanel} */ (document.createElement("tocsin-chart"));
    panel.plan(chart.plan);
    return { ...chart, panel };
  });
  /** @type {string | null} */ #token = null;
  #isOpen = false;
  /** @type {StatsStream | null} */ #stream = null;
  /** @type {History | null} */ #history = null;
  /** @type {{at: number, figures: Figures, receivedAt: number}[]} The last samples: when each was taken and received. */ #live =
    [];
  /** @type {string | null} */ #lostReason = null;
  /** @type {ReturnType<typeof setInterval> | undefined} */ #timer;

  constructor() {
    byId("dashboard-charts").append(...this.#charts.map(({ panel }) => panel));
    document.addEventListener("visibilitychange", () => this.#updateStream());
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", () => this.#updateStream());
    onRoute(({ name }) => {
      this.#isOpen = name === "dashboard";
      this.#updateStream();
    });
  }

  /** @param {string | null} token  Null: nobody is signed in. */
  use(token) {
    if (token === this.#token) return;
    const before = this.#token;
    this.#token = token;
    this.#close();
    if (token === null || before === null) this.#clear();
    this.#updateStream();
  }

  /** Opens the stream if the dashboard is visible, or closes it. */
  #updateStream() {
    const isSeen = this.#isOpen && !document.hidden && this.#token !== null;
    if (isSeen === (this.#stream !== null)) return;
    if (!isSeen) return this.#close();
    this.#lostReason = null;
    this.#stream = new StatsStream(/** @type {string} */ (this.#token), {
      onHistory: (history) => {
        this.#history = history;
        this.#show();
      },
      onFigures: (figures) => this.#onFigures(figures),
      onLost: (reason) => {
        this.#lostReason = reason;
        this.#showFreshness();
      },
    });
    this.#timer = setInterval(() => this.#showFreshness(), LOOK_MS);
    this.#showFreshness();
  }

  #close() {
    clearInterval(this.#timer);
    this.#stream?.close();
    this.#stream = null;
    this.#showFreshness();
  }

  #clear() {
    this.#history = null;
    this.#live = [];
    this.#show();
  }

  /** @param {Figures} figures */
  #onFigures(figures) {
    const at = Date.parse(figures.at);
    this.#lostReason = null;
    const goesOn = at - (this.#live.at(-1)?.at ?? 0) < STALE_MS; // What was missed is in the history.
    const before = goesOn ? this.#live.filter((sample) => sample.at > at - LIVE_MS) : [];
    this.#live = [...before, { at, figures, receivedAt: Date.now() }];
    this.#show();
    this.#showFreshness();
  }

  #show() {
    const { minutes = [], at = "" } = this.#history ?? {};
    for (const { panel, ofMinute, ofNow } of this.#charts) {
      panel.show(
        minutes.map((minute) => ({ at: Date.parse(minute.at), values: ofMinute(minute, secondsOf(minute, at)) })),
        this.#live.map((sample) => ({ at: sample.at, values: ofNow(sample.figures) })),
      );
    }
    this.#facts.replaceChildren(...factsOf(this.#live.at(-1)?.figures ?? null));
  }

  /** Shows how current the figures are, in a live region: the text changes only if its meaning does. */
  #showFreshness() {
    const [state, words] = this.#freshness();
    this.#section.dataset.state = state;
    write(this.#state, words);
  }

  /** @returns {["loading" | "live" | "late" | "stale" | "paused", string]} */
  #freshness() {
    const last = this.#live.at(-1);
    const asOf = last ? `The figures are of ${secondOfDay(last.at)}. ` : "";
    if (!this.#stream) return ["paused", `${asOf}Nothing is measured while nobody looks.`];
    if (this.#lostReason) {
      const comesBack = !["refresh", "stop"].includes(closePolicy(1008, this.#lostReason));
      return ["stale", `${asOf}${explain(this.#lostReason)}${comesBack ? " Trying again." : ""}`];
    }
    if (!last) return ["loading", "Loading the last hour …"];
    if (Date.now() - last.receivedAt > STALE_MS) return ["stale", `${asOf}Nothing has come since.`];
    const { database, measured_at: measured, nodes } = last.figures;
    if (!database.reachable) {
      const since = measured ? ` since ${secondOfDay(Date.parse(measured))}` : "";
      return ["late", `PostgreSQL has not answered${since}: alerts and latencies are of then.`];
    }
    if (nodes.answered < nodes.serving)
      return ["late", `${nodes.answered} of ${nodes.serving} nodes answered; the others are missing here.`];
    const estimated =
      (this.#history?.every ?? 1) > 1
        ? " So much happened that the alerts of the hour are estimated from a sample."
        : "";
    return ["live", `Live, every 2 s.${estimated}`];
  }
}

/** How much of a minute had passed when the history was taken, in seconds. @param {Minute} minute @param {string} historyAt */
function secondsOf(minute, historyAt) {
  return Math.min(60, Math.max(1, (Date.parse(historyAt) - Date.parse(minute.at)) / 1000));
}

/** @param {Figures | null} figures */
function factsOf(figures) {
  const database = figures?.database;
  const answers = database ? (database.reachable ? "answers" : "does not answer") : UNKNOWN;
  return [
    fact(
      "nodes",
      "Nodes",
      count(figures?.nodes.serving ?? null),
      figures ? `${count(figures.nodes.answered)} answered` : "",
    ),
    fact("lag", "Behind the log", count(figures?.lag ?? null), "events, at the slowest node"),
    fact("lagging", "Slow connections", count(figures?.lagging ?? null), `of ${count(figures?.connections ?? null)}`),
    fact(
      "commit",
      "Commit",
      duration(database?.commit_seconds ?? null),
      `${count(database?.queue ?? null)} alerts wait`,
    ),
    fact(
      "postgres",
      "PostgreSQL",
      answers,
      `${count(database?.pool_in_use ?? null)} of ${count(database?.pool_size ?? null)} connections busy`,
    ),
    fact("log", "Log", bytes(database?.log_bytes ?? null), `${count(database?.log_events ?? null)} events`),
  ];
}

/** @param {string} name @param {string} label @param {string} value @param {string} more */
function fact(name, label, value, more) {
  const figure = element("dd", { class: "figure-value", "data-testid": `fact-${name}` }, value);
  return element("div", "fact", element("dt", "", label), figure, element("dd", "small", more));
}
