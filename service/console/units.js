/**
 * Numbers with their units, short enough for an axis and the same in a chart, its legend and its table.
 */

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 2 });
const longer = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });

export const UNKNOWN = "–";

/** @param {number | null} value */
export function count(value) {
  return value === null ? UNKNOWN : whole.format(value);
}

/** @param {number | null} value  A second. */
export function rate(value) {
  if (value === null) return UNKNOWN;
  return `${(value >= 100 ? whole : short).format(value)}/s`;
}

/** @param {number | null} value  In seconds. */
export function duration(value) {
  if (value === null) return UNKNOWN;
  if (value >= 100) return `${whole.format(value)} s`;
  if (value >= 1) return `${longer.format(value)} s`;
  return value > 0 ? `${value < 0.1 ? short.format(value * 1000) : longer.format(value * 1000)} ms` : "0 ms";
}

/** @param {number | null} value */
export function bytes(value) {
  if (value === null) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = value < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(value) / 10));
  return `${longer.format(value / 1024 ** step)} ${units[step]}`;
}
