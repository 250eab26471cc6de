// The report on one input: its reconstruction, its scores and its latent.

import { bars, freeEnergyTerms, gaussians, histogram, toHistogram } from "./charts.js";
import { explain, formula, h, number } from "./dom.js";
import { RAMP, paintHeatmap } from "./pictures.js";

const SHOWN_DIMENSIONS = 32; // shown at once
const MIN_USUAL_P = 0.01; // p-values below it make an input unusual

const first = (scores, name) => scores[name]?.[0] ?? null;

/** Elements that show an input, its reconstruction, its scores and its latent. */
export function report(model, { x, reconstruction, mean, variance, scores, samples }, title) {
  const F = first(scores, "free_energy");
  const bits = first(scores, "bits_per_dim");
  const terms = ["distortion", "rate", "cross_entropy", "entropy"].map((name) => [name, first(scores, name)]);
  return [
    h("p", {}, h("span", { id: "shown" }, "Input: "), h("strong", {}, title)),
    ...views(model, x, reconstruction, scores.per_dimension[0]),
    h("h3", {}, "Free energy"),
    h("p", { class: "score" },
      h("span", { id: "free-energy", "data-value": F }, number(F)), h("small", {}, " nats"),
      bits === null ? null : h("small", { id: "bits" }, `, ${number(bits, 3)} bits per dimension`)),
    h("p", { id: "rarity" }, ...[rarity(model, scores)].flat()),
    freeEnergyTerms(Object.fromEntries(terms)),
    h("p", { class: "small" }, samples === 1
      ? "From one draw of z, as the scores on the map. The terms vary more between draws than their sum does."
      : `From ${samples} draws of z.`),
    scoreTable(scores, samples),
    glossary(model, samples),
    ...(model.gallery ? [h("h3", {}, "Compared with held-out inputs"), ...comparison(model, scores)] : []),
    h("h3", {}, "Approximate posterior Q(z|x)"),
    ...posterior(model, mean, variance),
  ];
}

function glossary(model, samples) {
  const term = (name, text, definition) => h("li", {}, h("strong", {}, name), `: ${text} `, definition);
  return explain("What do these terms mean?",
    "Free energy is the code length of the input: the cost of the latent plus the cost of what the latent does not "
    + "determine. It is an upper bound on the negative logarithm of the input's probability, so a higher value means "
    + "a less expected input.",
    model.card.discrete ? null : "This model gives densities, not probabilities. Its nats depend on the units of the "
      + "data and may be negative; they only compare inputs under this model.",
    formula("F(x) = E_Q[nlog P(x|z)] + E_Q[nlog P(z)] − H(Q) ≥ nlog P(x)"),
    h("ul", {},
      term("Distortion", "the cost of the input given its latent.", formula("E_Q[nlog P(x|z)]")),
      term("Rate", "the cost of the latent.", formula("KL(Q(z|x), P(z)) = cross-entropy − entropy")),
      term("Cross-entropy", "the cost of the latent under the prior.", formula("E_Q[nlog P(z)]")),
      term("Entropy", "the uncertainty of Q, which is subtracted.", formula("H(Q)")),
      samples > 1 ? term("nlog P(x)", `a tighter bound from ${samples} importance-weighted draws.`) : null,
      term("Typicality", "how far the input is from usual ones in latent, scores and complexity together. It has no "
        + "unit; 0 is usual.")));
}

const views = (model, ...parts) => (model.images ? imageViews : rowViews)(model, ...parts);

function rowViews(model, x, reconstruction, surprise) {
  const { discrete, data } = model.card;
  return [
    h("h3", {}, "Row, with its reconstruction as marks"), bars(model.columns, x, reconstruction, data),
    h("p", { class: "small" }, model.units),
    h("h3", {}, "Surprise of each column, in nats"), bars(model.columns, standardized(model, surprise)),
    explain("What is the surprise of a column?",
      "How improbable its value is given the latent, averaged over the draws.",
      discrete ? "The sum over all columns is the distortion."
        : "Columns are scored in their standard deviations here, so that their units do not matter. In their own "
          + "units, the sum over all columns is the distortion.",
      formula(discrete ? "nlog P(x_i | z)" : "nlog P(x_i | z) − log s_i")),
  ];
}

function imageViews(model, x, reconstruction, surprise) {
  const input = model.view("Input as the model sees it");
  const output = model.view("Reconstruction");
  const canvas = h("canvas", { class: "pixels", role: "img" });
  input.show(x);
  output.show(reconstruction);
  const [low, high] = paintHeatmap(canvas, surprise).map((value) => number(value));
  canvas.setAttribute("aria-label", `Surprise of each pixel, from ${low} to ${high} nats`);
  const band = h("i", { class: "ramp" });
  band.style.background = RAMP;
  const figure = (element, caption) => h("figure", {}, element, h("figcaption", {}, caption));
  return [
    h("div", { class: "views" },
      figure(input.element, "Input"), figure(output.element, "Reconstruction"), figure(canvas, "Surprise")),
    h("ul", { class: "legend" }, h("li", {}, `${low} `, band, ` ${high} nats per pixel`)),
    explain("What is surprise?",
      "How improbable a pixel is given the latent and, in an autoregressive model, the pixels before it. The sum over "
      + "all pixels is the distortion.", formula("nlog P(x_i | z)")),
  ];
}

/** Surprises of columns on one scale: a density has the unit of its column. */
function standardized(model, surprise) {
  return model.card.discrete ? surprise : surprise.map((nats, i) => nats - Math.log(model.card.data.std[i]));
}

const pValue = (p) => `p\u00a0${p < 0.001 ? "<\u00a00.001" : `=\u00a0${p.toPrecision(2)}`}`;

/** Histograms of held-out scores with this input's score marked; the outlier score of the model comes first. */
function comparison(model, scores) {
  const words = (name) =>
    (scores.p_values?.[name] ? `this input, ${pValue(scores.p_values[name][0])}` : "this input");
  const figure = (bins, name, caption, options) => h("figure", {},
    histogram(bins, first(scores, name), { words: words(name), ...options }), h("figcaption", {}, caption));
  const charts = [figure(model.gallery.histogram, "free_energy", "Free energy, nats")];
  const { typicality } = model.gallery.scores;
  if (!typicality || first(scores, "typicality") === null) return charts;
  const options = { name: "Typicality", unit: "" };
  const caption = "Typicality, no unit; higher is less usual";
  const chart = figure(toHistogram(typicality), "typicality", caption, options);
  return model.card.anomaly_score === "typicality" ? [chart, ...charts] : [...charts, chart];
}

/** How rare the scores are among calibration inputs, in words; the outlier score of the model comes first. */
function rarity(model, scores) {
  const { p_values: p, p_values_reason: reason } = scores;
  if (!p) return reason ?? "The model is not calibrated, so there are no p-values.";
  const sentence = (name, n, singular, plural) => {
    const count = Math.round(p[name][0] * (n + 1)) - 1; // p = (1 + count) / (n + 1)
    const who = count === 0 ? "none" : count === n ? "all" : count.toLocaleString("en");
    const verb = count < 2 ? singular : plural;
    return `of ${n.toLocaleString("en")} inputs not used in training, ${who} ${verb} (${pValue(p[name][0])})`;
  };
  const { inputs, typicality_inputs: typicalityInputs } = model.protocol;
  const parts = [
    sentence("free_energy", inputs, "has at least as high a free energy", "have at least as high a free energy"),
  ];
  if (p.typicality) {
    const part = sentence("typicality", typicalityInputs, "is at least as untypical", "are at least as untypical");
    if (model.card.anomaly_score === "typicality") parts.unshift(part);
    else parts.push(part);
  }
  const least = Math.min(p.free_energy[0], p.typicality?.[0] ?? 1);
  const unusual = least < MIN_USUAL_P ? h("strong", {}, "The model finds this input unusual. ") : null;
  return [unusual, `O${parts.join("; ").slice(1)}.`].filter(Boolean);
}

function scoreTable(scores, samples) {
  const rows = [
    ["Distortion", "distortion"], ["Rate", "rate"], ["Cross-entropy", "cross_entropy"], ["Entropy", "entropy"],
    ["Standard error", "standard_error"], ...(samples > 1 ? [["nlog P(x), tighter bound", "nlog_p_x"]] : []),
    ["Typicality, no unit", "typicality"],
  ];
  const row = ([text, name]) =>
    h("tr", {}, h("th", { scope: "row" }, text), h("td", { class: "number" }, number(first(scores, name))));
  return h("details", {}, h("summary", {}, "All scores as numbers"), h("table", {}, h("tbody", {},
    ...rows.filter(([, name]) => first(scores, name) !== null).map(row))));
}

function posterior(model, mean, variance) {
  const { order } = model;
  const [shown, rest] = [order.slice(0, SHOWN_DIMENSIONS), order.slice(SHOWN_DIMENSIONS)];
  const count = rest.length ? ` (${SHOWN_DIMENSIONS} of ${order.length})` : "";
  const sorted = model.gallery ? `, the most informative dimensions first${count}` : count;
  return [
    gaussians(mean, variance, shown),
    h("p", { class: "small" }, `Mean and standard deviation of each latent dimension${sorted}.`),
    rest.length ? h("details", {},
      h("summary", {}, `The other ${rest.length}`), gaussians(mean, variance, rest)) : null,
    explain("What is Q?",
      "The encoder's estimate of the latent of this input: a Gaussian with a mean and a standard deviation for each "
      + "dimension. A dimension with mean 0 and standard deviation 1 carries no information about this input.",
      formula("Q(z|x) = N(mean, variance)")),
  ].filter(Boolean);
}
