// Samples of the model.

import { call, json } from "./api.js";
import { attempt, h } from "./dom.js";
import { save } from "./pictures.js";

const [DEFAULT_COUNT, MAX_COUNT] = [36, 256];

/** Build the tab. Returns a function that draws samples with the settings of its form. */
export function samples(tab, model, inspect) {
  const most = Math.min(MAX_COUNT, model.maxRows);
  const field = (value, attributes) => h("input", { type: "number", value, required: true, ...attributes });
  const n = field(Math.min(DEFAULT_COUNT, most), { min: 1, max: most });
  const seed = field(0, { min: 0, max: 4294967295, class: "long" });
  const temperature = field(1, { min: 0, max: 10, step: "any" });
  const noise = h("input", { type: "checkbox" });
  const labels = model.card.labels ?? [];
  const label = h("select", {}, h("option", { value: "" }, "any"), ...labels.map((name) => h("option", {}, name)));
  const grid = h("div", { class: model.images ? "grid" : "wide", "aria-live": "polite" });
  const query = () => new URLSearchParams({
    n: n.valueAsNumber, seed: seed.valueAsNumber, temperature: temperature.valueAsNumber, noise: noise.checked,
    ...(label.value ? { label: label.value } : {}),
  });

  let requests = 0;
  const draw = () => attempt("samples", async () => {
    if (!form.reportValidity()) return;
    const mine = ++requests;
    const usedSeed = seed.value;
    const answer = await json(`sample?${query()}`);
    const { outputs } = answer;
    const name = (i) => `sample ${i + 1} of seed ${usedSeed}${answer.labels ? `, ${answer.labels[i]}` : ""}`;
    if (mine !== requests) return; // a later request replaces this one
    grid.replaceChildren(...(model.images ? pictures(model, outputs, name, inspect)
      : [table(model, outputs, name, inspect)]));
  });
  const download = (format, type) => attempt("samples", async () => {
    if (!form.reportValidity()) return;
    const response = await call(`sample?${query()}&format=${format}`, { accept: type });
    save(await response.blob(), `samples-seed-${seed.value}.${format}`);
  });
  const downloadButton = (text, format, type) =>
    h("button", { type: "button", title: `Download as ${text}`, onclick: () => download(format, type) }, text);
  const newSeed = () => {
    seed.value = Math.floor(Math.random() * 2 ** 32);
    draw();
  };
  const submit = (event) => {
    event.preventDefault();
    draw();
  };
  const form = h("form", { class: "row", onsubmit: submit },
    h("label", {}, "Count", n), h("label", {}, "Seed", seed), h("label", {}, "Temperature", temperature),
    labels.length ? h("label", {}, "Label", label) : null,
    h("label", { title: "Draw each value from its distribution instead of showing its mean" }, noise, "Noise"),
    h("button", { class: "main" }, "Sample"),
    h("button", { type: "button", onclick: newSeed }, "New seed"),
    model.images ? downloadButton("PNG", "png", "image/png") : null,
    downloadButton("npz", "npz", "application/x-npz"));
  tab.append(
    h("p", { class: "small" }, "Latents drawn from the prior and decoded. A seed always gives the same samples. A "
      + "temperature below 1 stays closer to the mean of the prior; noise also draws each value from its "
      + "distribution. Click a sample to inspect it."),
    form, grid);
  return draw;
}

function pictures(model, outputs, name, inspect) {
  return outputs.map((output, i) => {
    const view = model.view(`Sample ${i + 1}`);
    view.show(output);
    const open = () => inspect({ inputs: [output], name: name(i) });
    return h("button", { "aria-label": `Inspect sample ${i + 1}`, onclick: open }, view.element);
  });
}

function table(model, outputs, name, inspect) {
  const row = (values, i) => {
    const open = () => inspect({ inputs: [values], name: name(i) });
    return h("tr", {},
      h("td", {}, h("button", { "aria-label": `Inspect sample ${i + 1}`, onclick: open }, "Inspect")),
      ...values.map((value) => h("td", { class: "number" }, Number(value.toPrecision(5)))));
  };
  return h("table", {},
    h("thead", {}, h("tr", {}, h("td", {}), ...model.columns.map((column) => h("th", { scope: "col" }, column)))),
    h("tbody", {}, ...outputs.map(row)));
}
