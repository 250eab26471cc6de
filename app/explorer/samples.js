// What the model makes up.

import { call, json } from "./api.js";
import { attempt, h } from "./dom.js";
import { save } from "./pictures.js";

export function samples(room, model, open) {
  const most = Math.min(256, model.most);
  const number = (value, attributes) => h("input", { type: "number", value, required: true, ...attributes });
  const n = number(Math.min(36, most), { min: 1, max: most });
  const seed = number(0, { min: 0, max: 4294967295, class: "long" });
  const temperature = number(1, { min: 0, max: 10, step: "any" });
  const noise = h("input", { type: "checkbox" });
  const grid = h("div", { class: model.images ? "grid" : "wide", "aria-live": "polite" });
  const query = () => `n=${n.valueAsNumber}&seed=${seed.valueAsNumber}&temperature=${temperature.valueAsNumber}&noise=${noise.checked}`;

  let turn = 0;
  const draw = () => attempt("samples", async () => {
    if (!form.reportValidity()) return;
    const mine = ++turn;
    const of = `of seed ${seed.value}`;
    const { outputs } = await json(`sample?${query()}`);
    if (mine !== turn) return; // others have been asked for since
    if (model.images) {
      grid.replaceChildren(...outputs.map((output, i) => {
        const view = model.view(`Sample ${i + 1}`);
        view.show(output);
        return h("button", { "aria-label": `Put sample ${i + 1} under the glass`, onclick: () => open({ inputs: [output], name: `sample ${i + 1} ${of}` }) }, view.element);
      }));
      return;
    }
    grid.replaceChildren(h("table", {},
      h("thead", {}, h("tr", {}, h("th", {}, ""), ...model.columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...outputs.map((row, i) => h("tr", {},
        h("td", {}, h("button", { "aria-label": `Put sample ${i + 1} under the glass`, onclick: () => open({ inputs: [row], name: `sample ${i + 1} ${of}` }) }, "Look")),
        ...row.map((value) => h("td", { class: "number" }, Number(value.toPrecision(5)))))))));
  });
  const download = (kind, type) => attempt("samples", async () => {
    if (!form.reportValidity()) return;
    const answer = await call(`sample?${query()}&format=${kind}`, { accept: type });
    save(await answer.blob(), `samples-seed-${seed.value}.${kind}`);
  });
  const form = h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); draw(); } },
    h("label", {}, "How many", n), h("label", {}, "Seed", seed), h("label", {}, "Temperature", temperature),
    h("label", { title: "Draw each pixel too, instead of showing its mean" }, noise, "Noise"),
    h("button", { class: "main" }, "Draw"),
    h("button", { type: "button", onclick: () => { seed.value = Math.floor(Math.random() * 2 ** 32); draw(); } }, "Other seed"),
    model.images ? h("button", { type: "button", onclick: () => download("png", "image/png") }, "PNG") : null,
    h("button", { type: "button", onclick: () => download("npz", "application/x-npz") }, "npz"));
  room.append(
    h("p", { class: "small" }, "Latents drawn from the prior and decoded. The same seed gives the same samples, always. A temperature below 1 stays nearer to the middle; with noise, each value is drawn too. Click one to put it under the glass."),
    form, grid);
  return draw;
}
