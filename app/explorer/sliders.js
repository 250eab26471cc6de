// Sliders for the latent dimensions, decoded as they move.

import { call, json } from "./api.js";
import { attempt, copy, h, number } from "./dom.js";
import { paintPng } from "./pictures.js";

const SHOWN_SLIDERS = 24; // shown at once
const RANGE = 4; // standard deviations of the prior
const RATE_WINDOW_MS = 1000;
const MIN_SHOWN_RATE = 5; // images per window below which no rate is shown

/** Build the tab. Returns a function that sets all sliders to a latent. */
export function sliders(tab, model) {
  const latent = new Array(model.latent).fill(0);
  const view = model.view("Decoded latent");
  const rate = h("figcaption", { "aria-live": "off" });
  const decode = decoder(model, view, rate, latent);
  const controls = new Map(model.order.map((dimension, rank) => [dimension, slider(model, dimension, rank, set)]));

  function set(dimension, value) {
    latent[dimension] = value;
    controls.get(dimension).value.textContent = number(value, 2);
    decode();
  }

  function setLatent(values) {
    values.forEach((z, dimension) => {
      latent[dimension] = z;
      const { input, value } = controls.get(dimension);
      input.value = z;
      value.textContent = number(z, 2);
    });
    decode();
  }

  const sample = () => attempt("sample", async () => {
    const { latents } = await json(`sample?n=1&seed=${Math.floor(Math.random() * 2 ** 32)}`);
    setLatent(latents[0]);
  });
  const copyButton = (text, content) => {
    const button = h("button", { onclick: () => attempt("copy", () => copy(content(), button)) }, text);
    return button;
  };
  tab.append(
    h("p", { class: "small" }, "Each slider sets one latent dimension, in standard deviations of the prior"
      + `${model.gallery ? "; the most informative dimensions come first" : ""}.`),
    h("div", { class: "row" },
      h("button", { onclick: () => setLatent(latent.map(() => 0)) }, "Set all to 0"),
      h("button", { onclick: sample }, "Sample the prior"),
      copyButton("Copy as JSON", () => JSON.stringify({ latents: [latent] })),
      copyButton("Copy as curl", () => curl(model, latent))),
    h("div", { class: "sliders" },
      h("figure", { class: "picture" },
        view.element, model.images ? null : h("p", { class: "small" }, model.units), rate),
      h("div", {}, ...groups(model, [...controls.values()].map(({ element }) => element)))));
  decode();
  return setLatent;
}

function slider(model, dimension, rank, set) {
  const value = h("output", {}, "0");
  const input = h("input", {
    type: "range", min: -RANGE, max: RANGE, step: 0.01, value: 0, "data-dimension": dimension,
    oninput: () => set(dimension, Number(input.value)),
  });
  const title = `Dimension ${dimension}${model.gallery ? `, rank ${rank + 1} by KL(Q, N(0, 1))` : ""}`;
  return { input, value, element: h("label", { title }, `z ${dimension}`, input, value) };
}

/** Sliders in the order of their divergence from N(0, 1): the first ones, and two folded groups. */
function groups(model, elements) {
  const count = model.informative;
  const shown = elements.slice(0, Math.min(count, SHOWN_SLIDERS));
  const rest = elements.slice(shown.length, count);
  const idle = elements.slice(count);
  const dials = (parts) => h("div", { class: "dials" }, ...parts);
  const folded = (text, parts) => (parts.length ? h("details", {}, h("summary", {}, text), dials(parts)) : null);
  return [
    dials(shown),
    folded(`${rest.length} less informative dimensions`, rest),
    folded(`${idle.length} uninformative dimensions (KL(Q, N(0, 1)) below 0.01 nats)`, idle),
  ].filter(Boolean);
}

/** A function that decodes the latent: one request at a time, always with the newest values. */
function decoder(model, view, rate, latent) {
  let [busy, stale] = [false, false];
  let clearRate = null;
  const times = [];

  async function request() {
    const values = [...latent];
    const body = { latents: [values] };
    if (model.images) await paintPng(view.element, await call("decode?format=png", { body, accept: "image/png" }));
    else view.show((await json("decode", { body })).outputs[0]);
    showRate();
    view.element.dataset.shown = JSON.stringify(values);
  }

  function showRate() {
    clearTimeout(clearRate);
    clearRate = setTimeout(() => { rate.textContent = ""; }, RATE_WINDOW_MS);
    const now = performance.now();
    while (times.length && times[0] < now - RATE_WINDOW_MS) times.shift();
    times.push(now);
    rate.textContent = times.length > MIN_SHOWN_RATE ? `${times.length} images in the last second` : "";
  }

  return async () => {
    stale = true;
    if (busy) return;
    busy = true;
    while (stale) {
      stale = false;
      await attempt("sliders", request);
    }
    busy = false;
  };
}

/** The decode request as a command line. */
function curl(model, latent) {
  const address = new URL(model.images ? "decode?format=png" : "decode", document.baseURI);
  const output = model.images ? " -o decoded.png" : "";
  const body = JSON.stringify({ latents: [latent] });
  return `curl -s '${address}' -H 'Content-Type: application/json' -d '${body}'${output}`;
}
