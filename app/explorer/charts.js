// Small charts as SVG; what they show is also said in words beside them.

import { s, say } from "./dom.js";

const WIDTH = 430;

/** Round numbers from low to high, about as many as wished for. */
export function ticks(low, high, wish = 5) {
  const rough = (high - low || 1) / wish;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((nice) => nice * power >= rough) ?? 10);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Math.abs(at) < step * 1e-9 ? 0 : at);
  return found;
}

const scale = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);

/** Room on the left for the names of these, in the units of a chart. */
const room = (names) => 10 + 6.8 * Math.max(...names.map((name) => name.length));

function frame(height, label, ...inside) {
  return s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label }, ...inside);
}

function axis(x, y, low, high) {
  return [
    s("line", { class: "axis", x1: x(low), x2: x(high), y1: y, y2: y }),
    ...ticks(low, high).map((tick) => s("text", { x: x(tick), y: y + 14, "text-anchor": "middle" }, say(tick))),
  ];
}

/**
 * Free energy as what it is the sum of, whatever the signs: each bar begins where the one before has ended.
 * Above distortion and rate, below distortion, cross-entropy and entropy.
 */
export function sums({ distortion, rate, cross_entropy: cross, entropy }) {
  const whole = distortion + rate;
  const edges = [0, distortion, distortion + cross, whole];
  const [low, high] = [Math.min(...edges), Math.max(...edges)];
  const x = scale(low, high, 96, WIDTH - 60);
  const bar = (y, from, to, kind, value = to - from) => [
    s("rect", { class: kind, x: x(Math.min(from, to)), width: Math.max(1, Math.abs(x(to) - x(from))), y, height: 14 }),
    s("text", { class: "value", x: WIDTH - 52, y: y + 11 }, say(value)),
  ];
  const row = (y, text) => s("text", { x: 90, y: y + 11, "text-anchor": "end" }, text);
  const label = `Free energy ${say(whole)} nats: distortion ${say(distortion)} and rate ${say(rate)}; the rate is cross-entropy ${say(cross)} less entropy ${say(entropy)}.`;
  return frame(118, label,
    row(2, "distortion"), ...bar(2, 0, distortion, "distortion"),
    row(22, "+ rate"), ...bar(22, distortion, whole, "rate"),
    row(48, "cross-entropy"), ...bar(48, distortion, distortion + cross, "rate"),
    row(68, "− entropy"), ...bar(68, distortion + cross, whole, "entropy", entropy),
    s("line", { class: "mark", x1: x(whole), x2: x(whole), y1: 0, y2: 90 }),
    ...axis(x, 92, low, high),
  );
}

/** Values in bins of one width, as the gallery has free energies. */
export function binned(values, bins = 60) {
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const width = (high - low || 1) / bins;
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor((value - low) / width))] += 1;
  return { edges: Array.from({ length: bins + 1 }, (_, i) => low + i * width), counts };
}

/** Counts of held-out scores, and where one score lies among them; one that is far out is at the edge, with an arrow. */
export function histogram({ edges, counts }, mark = null, { name = "Free energy", unit = " nats", words = "this input" } = {}) {
  // Where all cost the same, bins have next to no width, and rounding is not far out.
  const span = Math.max(edges.at(-1) - edges[0], 1e-3 * Math.abs(edges[0]));
  const reach = [edges[0] - span / 2, edges.at(-1) + span / 2];
  const place = mark === null ? null : Math.min(reach[1], Math.max(reach[0], mark));
  const low = Math.min(edges[0], place ?? edges[0]);
  const high = Math.max(edges.at(-1), place ?? edges.at(-1));
  const x = scale(low, high, 6, WIDTH - 6);
  const y = scale(0, Math.max(...counts, 1), 118, 24);
  const bars = counts.map((count, i) => s("rect", { class: "bar", x: x(edges[i]), width: Math.max(0.5, x(edges[i + 1]) - x(edges[i]) - 0.5), y: y(count), height: 118 - y(count) }, s("title", {}, `${say(edges[i])} to ${say(edges[i + 1])}${unit}: ${count}`)));
  const label = `${name} of held-out inputs, from ${say(edges[0])} to ${say(edges.at(-1))}${unit}${mark === null ? "" : `; this input has ${say(mark)}`}.`;
  const marked = [];
  if (mark !== null) {
    const left = x(place) > WIDTH / 2;
    const far = place === mark ? "" : `, far out at ${say(mark)}`;
    const text = left ? `${words}${far}${far && " →"}` : `${far && "← "}${words}${far}`;
    marked.push(
      s("line", { class: "mark", x1: x(place), x2: x(place), y1: 4, y2: 118 }),
      s("text", { class: "marked", x: x(place) + (left ? -6 : 6), y: 14, "text-anchor": left ? "end" : "start" }, text));
  }
  return frame(136, label, ...bars, ...marked, ...axis(x, 120, low, high));
}

/** Means of Q with their standard deviations, one bar a dimension, over what the prior allows. */
export function gaussians(mean, variance, order) {
  const reach = Math.max(3, ...order.map((i) => Math.abs(mean[i]) + Math.sqrt(variance[i])));
  const y = scale(-reach, reach, 150, 6);
  const step = (WIDTH - 34) / order.length;
  const parts = order.flatMap((i, place) => {
    const x = 30 + place * step;
    const deviation = Math.sqrt(variance[i]);
    const middle = x + step / 2;
    return [
      s("rect", { class: "distortion", x: x + step * 0.1, width: step * 0.8, y: Math.min(y(0), y(mean[i])), height: Math.max(0.5, Math.abs(y(mean[i]) - y(0))) }, s("title", {}, `dimension ${i}: mean ${say(mean[i])}, standard deviation ${say(deviation)}`)),
      s("line", { class: "whisker", x1: middle, x2: middle, y1: y(mean[i] - deviation), y2: y(mean[i] + deviation) }),
    ];
  });
  const lines = ticks(-reach, reach, 6).flatMap((tick) => [
    s("line", { class: "axis", x1: 28, x2: WIDTH - 4, y1: y(tick), y2: y(tick) }),
    s("text", { x: 24, y: y(tick) + 4, "text-anchor": "end" }, say(tick)),
  ]);
  return frame(156, `Means of Q with their standard deviations, of ${order.length} latent dimensions.`, ...lines, ...parts);
}

/** Lines over the epochs, [{name, kind, values: [[epoch, value], ...]}], and which epoch was the best. */
export function curves(lines, label, best = null) {
  const points = lines.flatMap((line) => line.values);
  const [left, right] = [Math.min(...points.map(([x]) => x)), Math.max(...points.map(([x]) => x))];
  // The first epochs are so much worse that all the rest would be one line.
  const heights = points.map(([, y]) => y).sort((a, b) => a - b);
  const [low, high] = [heights[0], heights[Math.min(heights.length - 1, Math.floor(heights.length * 0.93))]];
  const levels = ticks(low, high, 4);
  const start = room(levels.map((tick) => say(tick)));
  const x = scale(left, right, start, WIDTH - 8);
  const y = scale(low, high, 150, 10);
  const drawn = lines.map((line) => s("polyline", { class: `curve ${line.kind}`, points: line.values.map(([a, b]) => `${x(a).toFixed(1)},${Math.max(2, y(b)).toFixed(1)}`).join(" ") }));
  const named = lines.map((line, i) => s("g", {},
    s("line", { class: `curve ${line.kind}`, x1: WIDTH - 130, x2: WIDTH - 110, y1: 18 + 16 * i, y2: 18 + 16 * i }),
    s("text", { class: "value", x: WIDTH - 105, y: 22 + 16 * i }, line.name)));
  const grid = levels.flatMap((tick) => [
    s("line", { class: "axis", x1: start, x2: WIDTH - 8, y1: y(tick), y2: y(tick) }),
    s("text", { x: start - 6, y: y(tick) + 4, "text-anchor": "end" }, say(tick)),
  ]);
  const served = best === null ? [] : [s("line", { class: "mark", "stroke-dasharray": "4 3", x1: x(best), x2: x(best), y1: 4, y2: 152 }, s("title", {}, `epoch ${best}, the best`))];
  return frame(176, label, ...grid, ...served, ...drawn, ...named, ...axis(x, 154, left, right));
}

/** Nats that each dimension carries, the most first. */
export function rates(values, active) {
  const sorted = [...values].sort((a, b) => b - a);
  const levels = ticks(0, sorted[0] || 1, 3);
  const start = room(levels.map((tick) => say(tick)));
  const y = scale(0, sorted[0] || 1, 100, 8);
  const step = (WIDTH - 6 - start) / sorted.length;
  const bars = sorted.map((value, i) => s("rect", { class: i < active ? "rate" : "bar", x: start + i * step, width: Math.max(0.4, step * 0.85), y: y(value), height: 100 - y(value) }, s("title", {}, `${say(value)} nats`)));
  const grid = levels.flatMap((tick) => [
    s("line", { class: "axis", x1: start, x2: WIDTH - 6, y1: y(tick), y2: y(tick) }),
    s("text", { x: start - 6, y: y(tick) + 4, "text-anchor": "end" }, say(tick)),
  ]);
  return frame(106, `Rate of each latent dimension: ${active} of ${values.length} carry something; the first has ${say(sorted[0])} nats.`, ...grid, ...bars);
}

/**
 * Values of named columns as bars from 0, and marks where others are. With `own`, the mean and standard deviation of each
 * column, the bars reach from the mean and in those deviations: columns have units of their own.
 */
export function bars(names, values, others = null, own = null) {
  const at = own ? (value, i) => (value - own.mean[i]) / (own.std[i] || 1) : (value) => value;
  const [places, marks] = [values.map(at), others?.map(at)];
  const all = [0, ...places, ...(marks ?? [])];
  const words = values.map((value, i) => (others ? `${say(value)} | ${say(others[i])}` : say(value)));
  const end = WIDTH - room(words);
  const x = scale(Math.min(...all), Math.max(...all), 170, end);
  const rows = names.flatMap((name, i) => {
    const top = 4 + i * 20;
    return [
      s("text", { x: 162, y: top + 11, "text-anchor": "end" }, name.length > 24 ? `${name.slice(0, 23)}…` : name, s("title", {}, name)),
      s("rect", { class: "distortion", x: Math.min(x(0), x(places[i])), width: Math.max(1, Math.abs(x(places[i]) - x(0))), y: top, height: 14 }),
      marks && s("line", { class: "mark", x1: x(marks[i]), x2: x(marks[i]), y1: top - 2, y2: top + 16 }),
      s("text", { class: "value", x: end + 8, y: top + 11 }, words[i]),
    ].filter(Boolean);
  });
  const label = names.map((name, i) => `${name} ${words[i].replace(" | ", ", and marked ")}`).join("; ");
  const bottom = 6 + 20 * names.length;
  return frame(bottom + 18, label, ...rows, ...axis(x, bottom, Math.min(...all), Math.max(...all)));
}
