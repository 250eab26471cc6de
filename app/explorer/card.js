// The model card: the model, its training, its evaluation, warnings, and the load of the service.

import { curves, divergences, histogram } from "./charts.js";
import { explain, facts, h, number } from "./dom.js";
import { serviceStatus } from "./status.js";

const heading = (text) => h("h3", {}, text);
const small = (text) => h("p", { class: "small" }, text);
const count = (value) => value.toLocaleString("en");

/** Build the tab. Returns a function to call when it is shown. */
export function card(tab, model) {
  const service = h("div");
  tab.append(
    ...model.card.warnings.map(({ title, text }) => h("p", { class: "warn" }, h("strong", {}, `${title}. `), text)),
    heading("Model"), architecture(model),
    heading("Training"), ...training(model),
    heading("Evaluation on unseen data"), ...evaluation(model.card),
    ...freeEnergies(model.gallery),
    ...dimensions(model),
    heading("Service"), service);
  return serviceStatus(service, model.card);
}

function architecture({ card: c, active }) {
  return facts([
    ["Name", c.name], ["Network", c.network.name], ["Latent", `${c.latent} dimensions, ${active} active`],
    ["Likelihood", `${c.likelihood.name}${c.likelihood.autoregressive ? ", autoregressive" : ""}`],
    ["Weights", count(c.weights)], ["Created", c.created], ["Digest", c.digest.slice(0, 12)],
    ["Outlier score", c.anomaly_score.replace("_", " ")],
  ]);
}

function training({ card: { training: t }, gallery, parts }) {
  const record = t ? facts([
    ["Data", t.dataset], ["Training samples", count(parts.fitted)], ["Held-out samples", count(parts.heldOut)],
    ["Samples set aside", count(parts.setAside)],
    ["Best epoch", t.settings?.epochs && `${t.epoch} of ${t.settings.epochs}`],
    ["Time to best epoch", duration(t.seconds)], ["Machine", t.machine],
  ]) : h("p", {}, "The card has no record of the training.");
  const command = t?.command
    ? [h("details", {}, h("summary", {}, "Command"), h("p", { class: "formula" }, t.command))] : [];
  return [record, ...learningCurves(gallery?.learning ?? []), ...command];
}

function learningCurves(records) {
  const line = (name, kind, key) => {
    const values = records.map((record) => [record.epoch, record[key]]);
    return { name, kind, values: values.filter(([, value]) => Number.isFinite(value)) };
  };
  const lines = [line("training", "third", "train_free_energy"), line("held out", "first", "free_energy")]
    .filter(({ values }) => values.length > 1);
  if (!lines.length) return [];
  const best = records.reduce((a, b) => (a.free_energy <= b.free_energy ? a : b)).epoch;
  return [
    curves(lines, "Free energy over the epochs, on training samples and on held-out samples.", best),
    small("Free energy in nats by epoch; the dashed line marks the best epoch. The training value is the mean over "
      + "the epoch while the weights change, so it starts higher. Overfitting begins where the held-out line turns up "
      + "while the training line still falls."),
  ];
}

function evaluation({ evaluation: e, training: t }) {
  if (!e) return [h("p", {}, unevaluated(t?.held_out_scores))];
  const bits = e.bits_per_dim
    ? `${number(e.bits_per_dim)} ± ${number(e.bits_per_dim_standard_error)} bits per dimension, ` : "";
  const codecs = Object.entries(e.codecs_bits_per_dim ?? {}).map(([name, value]) => `${name} ${number(value)}`);
  return [
    h("p", {}, `${count(e.samples)} samples of ${e.dataset}: free energy ${number(e.free_energy)} ± `
      + `${number(e.free_energy_standard_error)} nats, ${bits}nlog P(x) at most ${number(e.nlog_p_x)} nats by `
      + `${e.draws} draws.`),
    ...(codecs.length ? [small(`Other codecs on these images, bits per dimension: ${codecs.join(", ")}.`)] : []),
    ...(e.detection?.length ? [detectionTable(e.detection[0])] : []),
  ];
}

function unevaluated(scores) {
  if (!scores) return "Not evaluated.";
  const bits = scores.bits_per_dim ? `, ${number(scores.bits_per_dim)} bits per dimension` : "";
  return `On the held-out samples, which chose the best epoch: ${number(scores.free_energy)} nats${bits}.`;
}

function detectionTable({ auroc }) {
  const column = (text, attributes = { class: "number" }) => h("th", { scope: "col", ...attributes }, text);
  const cell = (value) => h("td", { class: "number" }, number(value, 3));
  const rows = Object.entries(auroc).map(([name, areas]) =>
    h("tr", {}, h("th", { scope: "row" }, name), cell(areas.typicality), cell(areas.free_energy)));
  return h("div", { class: "wide" }, h("table", {},
    h("caption", { class: "small" },
      "Probability that an outlier scores higher than a test sample (AUROC; chance is 0.5)"),
    h("thead", {}, h("tr", {}, column("Outliers", {}), column("Typicality"), column("Free energy"))),
    h("tbody", {}, ...rows)));
}

function freeEnergies(gallery) {
  if (!gallery?.histogram) return [];
  return [heading("Free energy of held-out inputs"), histogram(gallery.histogram),
    small("Number of inputs by free energy in nats.")];
}

function dimensions({ gallery, card: c, active }) {
  const values = gallery?.kl_to_normal ?? c.evaluation?.kl_to_normal;
  if (!values) return [];
  const data = gallery ? " on the held-out inputs" : "";
  return [
    heading("KL(Q, N(0, 1)) of each latent dimension"), divergences(values, active),
    small(`In nats, sorted; ${active} of ${values.length} dimensions are active${data}.`),
    explain("When is a dimension active?",
      "If the variance of its mean over the data is above 0.01 (Burda et al. 2016). An inactive dimension is the "
      + "same for every input and has no cost."),
  ];
}

function duration(seconds) {
  if (!Number.isFinite(seconds)) return null;
  return seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} minutes`;
}
