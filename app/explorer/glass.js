// One input: as the model sees it, what it makes of it, and what it costs.

import { call, json } from "./api.js";
import { attempt, formula, h, say, why } from "./dom.js";
import { RAMP, paintMap } from "./pictures.js";
import { bars, binned, gaussians, histogram, sums } from "./charts.js";
import { drawing } from "./draw.js";

const FIRST = 32; // dimensions that are shown at once
// Something else has been put there since: neither what this says nor how it fails is of interest any more.
const OVERTAKEN = new DOMException("overtaken", "AbortError");

/** Builds the room; returns a function that puts something under the glass: {file}, {inputs: 1 x ...} or {index}. */
export function glass(room, model, { take, put }) {
  const result = h("div", { id: "under", "aria-live": "polite", "aria-busy": "false" });
  const tools = h("div", { class: "row" });
  const extra = h("div");
  let [turn, current] = [0, null];

  async function open(source, name = null) {
    const mine = ++turn;
    result.setAttribute("aria-busy", "true");
    await attempt("glass", async () => {
      try {
        if (source.file?.type && !source.file.type.startsWith("image/")) throw new Error(`${source.name ?? "This file"} is no picture.`);
        const found = await examine(model, source);
        const called = heading(found, name ?? source.name, source.index);
        const parts = shown(model, found, called);
        if (mine !== turn) throw OVERTAKEN;
        put(source.index ?? null, found.mean, called);
        current = found;
        start.disabled = false;
        result.replaceChildren(...parts);
      } catch (error) {
        const before = result.querySelector("#here");
        if (mine !== turn) throw OVERTAKEN;
        if (before) before.textContent = "Still here: ";
        throw error;
      } finally {
        if (mine === turn) result.setAttribute("aria-busy", "false");
      }
    });
  }

  if (model.images) {
    const file = h("input", { type: "file", accept: "image/*", "aria-label": "Open a picture", onchange: () => { if (file.files[0]) open({ file: file.files[0], name: file.files[0].name }); file.value = ""; } });
    tools.append(h("span", { class: "button file" }, "Open a picture …", file));
    const board = drawing(model, (inputs) => open({ inputs, name: "your drawing" }));
    board.hidden = true;
    const draw = h("button", { "aria-expanded": "false", onclick: () => { board.hidden = !board.hidden; draw.setAttribute("aria-expanded", String(!board.hidden)); } }, "Draw one");
    tools.append(draw);
    extra.append(board);
    // Anywhere: a browser leaves the page for a picture that nobody takes.
    document.addEventListener("dragover", (event) => { event.preventDefault(); room.classList.add("drop"); });
    document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) room.classList.remove("drop"); });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      room.classList.remove("drop");
      const [dropped] = event.dataTransfer.files;
      if (dropped) open({ file: dropped, name: dropped.name });
    });
    document.addEventListener("paste", (event) => {
      const pasted = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
      if (pasted) open({ file: pasted, name: "the pasted picture" });
    });
  } else {
    extra.append(form(model, (inputs) => open({ inputs, name: "your row" })));
  }
  if (model.gallery) {
    tools.append(h("button", { onclick: () => open({ index: Math.floor(Math.random() * model.gallery.inputs) }) }, "Pick a held-out one"));
  }
  const start = h("button", { disabled: true, onclick: () => take(current.mean) }, "Take it to the sliders");
  tools.append(start);
  room.append(
    h("p", { class: "small" }, model.images
      ? "Drop a picture on this page, paste one, open or draw one; or click a point of the map or a sample."
      : "Fill in a row; or click a point of the map or a sample."),
    tools, extra, result);
  return open;
}

/** All that the service says of one input. */
async function examine(model, source) {
  let { inputs, file, index } = source;
  let label = null;
  if (index !== undefined) {
    ({ inputs } = await model.input(index));
    label = model.label(index);
  }
  const sent = file ? { body: file, type: file.type || "image/png" } : { body: { inputs } };
  const rebuilt = await json("reconstruct?inputs=true", sent);
  const x = rebuilt.inputs;
  const { samples, seed } = model.protocol;
  const query = `samples=${samples}&seed=${seed}&per_dimension=true`;
  // What follows is of the input as the model sees it, so that all of it belongs together.
  const [q, scores] = await Promise.all([
    json("encode", { body: { inputs: x } }),
    json(`free-energy?${query}`, { body: { inputs: x } }),
  ]);
  return { x: x[0], rebuilt: rebuilt.outputs[0], mean: q.mean[0], variance: q.variance[0], scores, label, samples };
}

const heading = ({ label }, name, index) => [name, label].filter(Boolean).join(", ") || `held-out input ${index}`;

const of = (scores, name) => scores[name]?.[0] ?? null;

function shown(model, { x, rebuilt, mean, variance, scores, samples }, called) {
  const F = of(scores, "free_energy");
  const bits = of(scores, "bits_per_dim");
  return [
    h("p", {}, h("span", { id: "here" }, "Here: "), h("strong", {}, called)),
    ...views(model, x, rebuilt, scores.per_dimension[0]),
    h("h3", {}, "What it costs"),
    h("p", { class: "score" }, h("span", { id: "free-energy", "data-value": F }, say(F)), h("small", {}, " nats of free energy"),
      bits === null ? null : h("small", { id: "bits" }, `, ${say(bits, 3)} bits per dimension`)),
    h("p", { id: "verdict" }, ...[verdict(model, scores)].flat()),
    sums({ distortion: of(scores, "distortion"), rate: of(scores, "rate"), cross_entropy: of(scores, "cross_entropy"), entropy: of(scores, "entropy") }),
    h("p", { class: "small" }, samples === 1 ? "From one draw of z, as the scores on the map: the terms move with the draw more than their sum does." : `From ${samples} draws of z.`),
    table(scores, samples),
    why("What do these words mean?",
      "Free energy is what it takes to send the input: first a latent, then what the latent does not tell of the input. It is never less than the negative logarithm of the input's probability, so the higher, the less the model expected it.",
      model.card.discrete ? null : "This model gives densities, not probabilities: its nats count from a zero that depends on the units of the data, and may be negative. They compare inputs under this model alone.",
      formula("F(x) = E_Q[nlog P(x|z)] + E_Q[nlog P(z)] − H(Q) ≥ nlog P(x)"),
      h("ul", {},
        h("li", {}, h("strong", {}, "Distortion"), ": what is left to be sent when the latent is known. ", formula("E_Q[nlog P(x|z)]")),
        h("li", {}, h("strong", {}, "Rate"), ": what the latent itself takes. ", formula("KL(Q(z|x), P(z)) = cross-entropy − entropy")),
        h("li", {}, h("strong", {}, "Cross-entropy"), ": the latent under the prior. ", formula("E_Q[nlog P(z)]")),
        h("li", {}, h("strong", {}, "Entropy"), ": how undecided Q is; it is given back. ", formula("H(Q)")),
        samples > 1 ? h("li", {}, h("strong", {}, "nlog P(x)"), `: the same ${samples} draws, weighted by their importance, for a bound that is nearer.`) : null,
        h("li", {}, h("strong", {}, "Typicality"), ": how far out the input lies when latent, costs and complexity are looked at together. It has no unit, and 0 is usual."))),
    model.gallery ? h("h3", {}, "Beside the held-out inputs") : null,
    ...(model.gallery ? beside(model, scores) : []),
    h("h3", {}, "Where Q puts it"),
    ...latents(model, mean, variance),
  ].filter(Boolean);
}

function views(model, x, rebuilt, surprise) {
  if (!model.images) {
    return [
      h("h3", {}, "The row, and (marked) what the model makes of it"), bars(model.columns, x, rebuilt, model.card.data),
      h("p", { class: "small" }, model.units),
      h("h3", {}, "Surprise of each column, in nats"), bars(model.columns, comparable(model, surprise)),
      why("What is the surprise of a column?", "How improbable its value is once the latent is known, averaged over the draws.",
        model.card.discrete ? "The sum over all columns is the distortion."
          : "The columns are counted in their standard deviations here, so that their units do not decide; in their own units the sum over all of them is the distortion.",
        formula(model.card.discrete ? "nlog P(x_i | z)" : "nlog P(x_i | z) − log s_i")),
    ];
  }
  const seen = model.view("The input as the model sees it");
  const again = model.view("What the model makes of it");
  const canvas = h("canvas", { class: "pixels", role: "img" });
  seen.show(x);
  again.show(rebuilt);
  const [low, high] = paintMap(canvas, surprise);
  canvas.setAttribute("aria-label", `Surprise of each pixel, from ${say(low)} to ${say(high)} nats`);
  const band = h("i", { class: "ramp" });
  band.style.background = RAMP;
  return [
    h("div", { class: "views" },
      h("figure", {}, seen.element, h("figcaption", {}, "As the model sees it")),
      h("figure", {}, again.element, h("figcaption", {}, "As it builds it again")),
      h("figure", {}, canvas, h("figcaption", {}, "Surprise"))),
    h("ul", { class: "legend" }, h("li", {}, `${say(low)} `, band, ` ${say(high)} nats a pixel`)),
    why("What is surprise?", "How improbable a pixel is once the latent is known, and where the model leans on them, the pixels before it. The sum over all pixels is the distortion.", formula("nlog P(x_i | z)")),
  ];
}

/** Surprises of columns that can be held beside each other: a density has the unit of its column. */
const comparable = (model, surprise) => (model.card.discrete ? surprise : surprise.map((nats, i) => nats - Math.log(model.card.data.std[i])));

const exact = (value) => `p\u00a0${value < 0.001 ? "<\u00a00.001" : `=\u00a0${value.toPrecision(2)}`}`;

/** The scores of held-out inputs, and this one's among them; the score for outliers first. */
function beside(model, scores) {
  const marked = (name) => (scores.p_values?.[name] ? `this input, ${exact(scores.p_values[name][0])}` : "this input");
  const { typicality } = model.gallery.scores;
  const T = of(scores, "typicality");
  const charts = [h("figure", {}, histogram(model.gallery.histogram, of(scores, "free_energy"), { words: marked("free_energy") }), h("figcaption", {}, "Free energy, nats"))];
  if (typicality && T !== null) {
    const chart = h("figure", {}, histogram(binned(typicality), T, { name: "Typicality", unit: "", words: marked("typicality") }), h("figcaption", {}, "Typicality; it has no unit, and more is further out"));
    if (model.card.anomaly_score === "typicality") charts.unshift(chart);
    else charts.push(chart);
  }
  return charts;
}

/** How rare such scores are, in words; the score for outliers first. */
function verdict(model, scores) {
  const { p_values: p, p_values_reason: reason } = scores;
  if (!p) return reason ?? "There is no calibration, so nobody can say how rare that is.";
  // A p-value is (1 + how many of n) / (n + 1): the least says that there was none.
  const rare = (name, n, one, many) => {
    const count = Math.round(p[name][0] * (n + 1)) - 1;
    const who = count === 0 ? "none" : count === n ? "all" : count.toLocaleString("en");
    return `of ${n.toLocaleString("en")} inputs that it was not fitted to, ${who} ${count < 2 ? one : many} (${exact(p[name][0])})`;
  };
  const parts = [rare("free_energy", model.protocol.inputs, "costs as much or more", "cost as much or more")];
  const T = p.typicality?.[0];
  if (T !== undefined) {
    const said = rare("typicality", model.protocol.typicality_inputs, "is as untypical", "are as untypical");
    if (model.card.anomaly_score === "typicality") parts.unshift(said);
    else parts.push(said);
  }
  const least = Math.min(p.free_energy[0], T ?? 1);
  return [least < 0.01 ? h("strong", {}, "The model finds this input unusual. ") : null, `O${parts.join("; ").slice(1)}.`];
}

function table(scores, samples) {
  const rows = [["Distortion", "distortion"], ["Rate", "rate"], ["Cross-entropy", "cross_entropy"], ["Entropy", "entropy"], ["Standard error", "standard_error"], ...(samples > 1 ? [["nlog P(x), closer", "nlog_p_x"]] : []), ["Typicality, no unit", "typicality"]];
  return h("details", {}, h("summary", {}, "All of it as numbers"), h("table", {}, h("tbody", {},
    ...rows.filter(([, name]) => of(scores, name) !== null).map(([text, name]) => h("tr", {}, h("th", { scope: "row" }, text), h("td", { class: "number" }, say(of(scores, name))))))));
}

function latents(model, mean, variance) {
  const { order } = model;
  const rest = order.slice(FIRST);
  return [
    gaussians(mean, variance, order.slice(0, FIRST)),
    h("p", { class: "small" }, `Means of Q, each with its standard deviation; those dimensions first that carry most${rest.length ? `, ${FIRST} of ${order.length}` : ""}.`),
    rest.length ? h("details", {}, h("summary", {}, `The other ${rest.length}`), gaussians(mean, variance, rest)) : null,
    why("What is Q?", "What the encoder says of where the latent of this input lies: a Gaussian with a mean and a standard deviation for each dimension. A dimension with mean 0 and deviation 1 says nothing of this input.", formula("Q(z|x) = N(mean, variance)")),
  ].filter(Boolean);
}

/** A row of named columns to fill in. */
function form(model, use) {
  const fields = model.columns.map((name, i) => {
    const input = h("input", { type: "number", step: "any", required: true });
    const middle = model.card.data.mean?.[i];
    if (middle !== undefined) input.value = Number(middle.toPrecision(4));
    return { input, label: h("label", {}, name, input) };
  });
  return h("details", {}, h("summary", {}, "A row of your own"),
    h("form", { onsubmit: (event) => { event.preventDefault(); use([fields.map(({ input }) => Number(input.value))]); } },
      h("div", { class: "columns" }, ...fields.map(({ label }) => label)),
      h("p", {}, h("button", { class: "main" }, "Put it under the glass"))));
}
