// Small charts as SVG. The label of each says in words what it shows.

import { number, s } from "./dom.js";

const WIDTH = 430; // of all charts, in SVG units
const LETTER_WIDTH = 6.8; // of the labels, in SVG units
const MAX_NAME = 24; // letters of a column's name
const BINS = 60;

/** Round numbers from low to high, about `count` of them. */
export function ticks(low, high, count = 5) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  const values = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) {
    values.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  }
  return values;
}

/** A linear function that maps low to `start` and high to `end`. */
const scale = (low, high, start, end) => (value) => start + ((value - low) / (high - low || 1)) * (end - start);

const labelWidth = (labels) => 10 + LETTER_WIDTH * Math.max(...labels.map((label) => label.length));

function chart(height, label, ...parts) {
  return s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label }, ...parts);
}

const text = (x, y, attributes, content) => s("text", { x, y, ...attributes }, content);

function horizontalAxis(x, y, low, high) {
  return [
    s("line", { class: "axis", x1: x(low), x2: x(high), y1: y, y2: y }),
    ...ticks(low, high).map((tick) => text(x(tick), y + 14, { "text-anchor": "middle" }, number(tick))),
  ];
}

/** Horizontal lines from x = start to x = end, labelled on the left. */
function grid(y, levels, start, end) {
  return levels.flatMap((level) => [
    s("line", { class: "axis", x1: start, x2: end, y1: y(level), y2: y(level) }),
    text(start - 6, y(level) + 4, { "text-anchor": "end" }, number(level)),
  ]);
}

const verticalLine = (x, y1, y2, attributes, ...children) =>
  s("line", { x1: x, x2: x, y1, y2, ...attributes }, ...children);

/**
 * Free energy as the sum of its terms: each bar begins where the one before ends, whatever the signs. Distortion and
 * rate above; cross-entropy and entropy, which make up the rate, below.
 */
export function freeEnergyTerms({ distortion, rate, cross_entropy: cross, entropy }) {
  const total = distortion + rate;
  const edges = [0, distortion, distortion + cross, total];
  const [low, high] = [Math.min(...edges), Math.max(...edges)];
  const x = scale(low, high, 96, WIDTH - 60);
  const row = (y, name, kind, start, end, value = end - start) => [
    text(90, y + 11, { "text-anchor": "end" }, name),
    s("rect", {
      class: kind, x: x(Math.min(start, end)), width: Math.max(1, Math.abs(x(end) - x(start))), y, height: 14,
    }),
    text(WIDTH - 52, y + 11, { class: "value" }, number(value)),
  ];
  const label = `Free energy ${number(total)} nats: distortion ${number(distortion)} plus rate ${number(rate)}; the `
    + `rate is cross-entropy ${number(cross)} minus entropy ${number(entropy)}.`;
  return chart(118, label,
    ...row(2, "distortion", "distortion", 0, distortion),
    ...row(22, "+ rate", "rate", distortion, total),
    ...row(48, "cross-entropy", "rate", distortion, distortion + cross),
    ...row(68, "− entropy", "entropy", distortion + cross, total, entropy),
    verticalLine(x(total), 0, 90, { class: "mark" }),
    ...horizontalAxis(x, 92, low, high));
}

/** Edges and counts of bins of equal width, as the gallery has them for free energies. */
export function toHistogram(values, bins = BINS) {
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const width = (high - low || 1) / bins;
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor((value - low) / width))] += 1;
  return { edges: Array.from({ length: bins + 1 }, (_, i) => low + i * width), counts };
}

/** A histogram of held-out scores with one score marked; a mark far outside is at the edge, with an arrow. */
export function histogram({ edges, counts }, mark = null, options = {}) {
  const { name = "Free energy", unit = " nats", words = "this input" } = options;
  const [first, last] = [edges[0], edges.at(-1)];
  // If all scores are equal, bins have almost no width, and a rounding error must not count as far outside.
  const span = Math.max(last - first, 1e-3 * Math.abs(first));
  const shown = mark === null ? null : Math.min(last + span / 2, Math.max(first - span / 2, mark));
  const [low, high] = [Math.min(first, shown ?? first), Math.max(last, shown ?? last)];
  const x = scale(low, high, 6, WIDTH - 6);
  const y = scale(0, Math.max(...counts, 1), 118, 24);
  const bar = (count, i) => {
    const width = Math.max(0.5, x(edges[i + 1]) - x(edges[i]) - 0.5);
    const title = `${number(edges[i])} to ${number(edges[i + 1])}${unit}: ${count}`;
    const attributes = { class: "bar", x: x(edges[i]), width, y: y(count), height: 118 - y(count) };
    return s("rect", attributes, s("title", {}, title));
  };
  const label = `${name} of held-out inputs, from ${number(first)} to ${number(last)}${unit}`
    + `${mark === null ? "" : `; this input has ${number(mark)}`}.`;
  const marks = mark === null ? [] : scoreMark(x(shown), words, shown === mark ? null : mark);
  return chart(136, label, ...counts.map(bar), ...marks, ...horizontalAxis(x, 120, low, high));
}

/** A line with its words on the wider side; `outside` is the score if it lies beyond the edge. */
function scoreMark(x, words, outside) {
  const left = x > WIDTH / 2;
  const label = outside === null ? words : `${words}, far out at ${number(outside)}`;
  const arrow = outside === null ? label : left ? `${label} →` : `← ${label}`;
  return [
    verticalLine(x, 4, 118, { class: "mark" }),
    text(x + (left ? -6 : 6), 14, { class: "marked", "text-anchor": left ? "end" : "start" }, arrow),
  ];
}

/** Means of Q as bars with their standard deviations as whiskers, one for each dimension in `order`. */
export function gaussians(mean, variance, order) {
  const reach = Math.max(3, ...order.map((i) => Math.abs(mean[i]) + Math.sqrt(variance[i])));
  const y = scale(-reach, reach, 150, 6);
  const step = (WIDTH - 34) / order.length;
  const parts = order.flatMap((i, rank) => {
    const x = 30 + rank * step;
    const deviation = Math.sqrt(variance[i]);
    const [top, height] = [Math.min(y(0), y(mean[i])), Math.max(0.5, Math.abs(y(mean[i]) - y(0)))];
    const title = `dimension ${i}: mean ${number(mean[i])}, standard deviation ${number(deviation)}`;
    return [
      s("rect", { class: "distortion", x: x + step * 0.1, width: step * 0.8, y: top, height }, s("title", {}, title)),
      verticalLine(x + step / 2, y(mean[i] - deviation), y(mean[i] + deviation), { class: "whisker" }),
    ];
  });
  const label = `Means and standard deviations of Q for ${order.length} latent dimensions.`;
  return chart(156, label, ...grid(y, ticks(-reach, reach, 6), 28, WIDTH - 4), ...parts);
}

/** Lines over the epochs, [{name, kind, values: [[epoch, value], ...]}], and the best epoch. */
export function curves(lines, label, best = null) {
  const points = lines.flatMap((line) => line.values);
  const [left, right] = [Math.min(...points.map(([x]) => x)), Math.max(...points.map(([x]) => x))];
  // The first epochs are so much worse that the rest would be one flat line: cut them off.
  const heights = points.map(([, y]) => y).sort((a, b) => a - b);
  const [low, high] = [heights[0], heights[Math.min(heights.length - 1, Math.floor(heights.length * 0.93))]];
  const levels = ticks(low, high, 4);
  const start = labelWidth(levels.map((level) => number(level)));
  const x = scale(left, right, start, WIDTH - 8);
  const y = scale(low, high, 168, 28);
  const path = ({ values }) => values.map(([a, b]) => `${x(a).toFixed(1)},${Math.max(20, y(b)).toFixed(1)}`).join(" ");
  const drawn = lines.map((line) => s("polyline", { class: `curve ${line.kind}`, points: path(line) }));
  const legend = lines.flatMap((line, i) => [
    s("line", { class: `curve ${line.kind}`, x1: start + 110 * i, x2: start + 20 + 110 * i, y1: 8, y2: 8 }),
    text(start + 26 + 110 * i, 12, { class: "value" }, line.name),
  ]);
  const marked = best === null ? [] : [verticalLine(x(best), 22, 170,
    { class: "mark", "stroke-dasharray": "4 3" }, s("title", {}, `best epoch: ${best}`))];
  return chart(194, label, ...grid(y, levels, start, WIDTH - 8), ...marked, ...drawn, ...legend,
    ...horizontalAxis(x, 172, left, right));
}

/** KL(Q, N(0, 1)) of each dimension in nats, sorted; the active ones are highlighted. */
export function divergences(values, active) {
  const sorted = [...values].sort((a, b) => b - a);
  const levels = ticks(0, sorted[0] || 1, 3);
  const start = labelWidth(levels.map((level) => number(level)));
  const y = scale(0, sorted[0] || 1, 100, 8);
  const step = (WIDTH - 6 - start) / sorted.length;
  const bar = (value, i) => s("rect", {
    class: i < active ? "rate" : "bar", x: start + i * step, width: Math.max(0.4, step * 0.85), y: y(value),
    height: 100 - y(value),
  }, s("title", {}, `${number(value)} nats`));
  const label = `KL(Q, N(0, 1)) of each latent dimension: ${active} of ${values.length} are active; the highest is `
    + `${number(sorted[0])} nats.`;
  return chart(106, label, ...grid(y, levels, start, WIDTH - 6), ...sorted.map(bar));
}

/**
 * Values of named columns as bars from 0, with other values as marks. With the columns' {mean, std}, bars start at the
 * mean and are measured in standard deviations, since columns have different units.
 */
export function bars(names, values, others = null, columns = null) {
  const standardize = columns
    ? (value, i) => (value - columns.mean[i]) / (columns.std[i] || 1)
    : (value) => value;
  const [lengths, marks] = [values.map(standardize), others?.map(standardize) ?? []];
  const [low, high] = [Math.min(0, ...lengths, ...marks), Math.max(0, ...lengths, ...marks)];
  const labels = values.map((value, i) => (others ? `${number(value)} | ${number(others[i])}` : number(value)));
  const end = WIDTH - labelWidth(labels);
  const x = scale(low, high, 170, end);
  const row = (name, i) => {
    const top = 4 + i * 20;
    const [left, width] = [Math.min(x(0), x(lengths[i])), Math.max(1, Math.abs(x(lengths[i]) - x(0)))];
    const shortName = name.length > MAX_NAME ? `${name.slice(0, MAX_NAME - 1)}…` : name;
    return [
      text(162, top + 11, { "text-anchor": "end" }, shortName),
      s("rect", { class: "distortion", x: left, width, y: top, height: 14 }, s("title", {}, name)),
      ...(others ? [verticalLine(x(marks[i]), top - 2, top + 16, { class: "mark" })] : []),
      text(end + 8, top + 11, { class: "value" }, labels[i]),
    ];
  };
  const label = names.map((name, i) => `${name} ${labels[i].replace(" | ", ", marked ")}`).join("; ");
  const bottom = 6 + 20 * names.length;
  return chart(bottom + 18, label, ...names.flatMap(row), ...horizontalAxis(x, bottom, low, high));
}
