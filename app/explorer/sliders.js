// Every dimension of the latent by hand, decoded as it moves.

import { call, json } from "./api.js";
import { attempt, copy, h, say } from "./dom.js";
import { paintPng } from "./pictures.js";

const FIRST = 24; // dials that are shown at once
const REACH = 4; // standard deviations of the prior

/** Builds the room; returns a function that sets all dials to a latent. */
export function sliders(room, model) {
  const latent = new Array(model.latent).fill(0);
  const view = model.view("The decoded latent");
  const pace = h("figcaption", { "aria-live": "off" });
  const dials = new Map(model.order.map((dimension, place) => [dimension, dial(dimension, place)]));

  function dial(dimension, place) {
    const value = h("output", {}, "0");
    const input = h("input", { type: "range", min: -REACH, max: REACH, step: 0.01, value: 0, "data-dimension": dimension, oninput: () => set(dimension, Number(input.value)) });
    return { input, value, element: h("label", { title: model.gallery ? `Dimension ${dimension}, number ${place + 1} by how much it carries` : `Dimension ${dimension}` }, `z ${dimension}`, input, value) };
  }

  function set(dimension, to) {
    latent[dimension] = to;
    dials.get(dimension).value.textContent = say(to, 2);
    decode();
  }

  function take(values) {
    values.forEach((to, dimension) => {
      latent[dimension] = to;
      const { input, value } = dials.get(dimension);
      input.value = to;
      value.textContent = say(to, 2);
    });
    decode();
  }

  // One request at a time, and always of the newest latent: as fast as the service is, and never behind.
  let [busy, stale] = [false, false];
  const times = [];
  let resting = null;
  async function decode() {
    stale = true;
    if (busy) return;
    busy = true;
    while (stale) {
      stale = false;
      await attempt("sliders", async () => {
        const wanted = [...latent];
        const body = { latents: [wanted] };
        if (model.images) await paintPng(view.element, await call("decode?format=png", { body, accept: "image/png" }));
        else view.show((await json("decode", { body })).outputs[0]);
        clearTimeout(resting);
        resting = setTimeout(() => { pace.textContent = ""; }, 1000);
        const now = performance.now();
        while (times.length && times[0] < now - 1000) times.shift();
        times.push(now);
        pace.textContent = times.length > 5 ? `${times.length} pictures in the last second` : "";
        view.element.dataset.shown = JSON.stringify(wanted);
      });
    }
    busy = false;
  }

  const copyJson = h("button", { onclick: () => attempt("copy", () => copy(JSON.stringify({ latents: [latent] }), copyJson)) }, "Copy as JSON");
  const copyCurl = h("button", { onclick: () => attempt("copy", () => copy(curl(model, latent), copyCurl)) }, "Copy as curl");
  const order = [...dials.values()].map(({ element }) => element);
  const count = model.carrying;
  const active = order.slice(0, count);
  const [first, rest, inactive] = [active.slice(0, FIRST), active.slice(FIRST), order.slice(count)];
  const folded = (text, elements) => (elements.length ? h("details", {}, h("summary", {}, text), h("div", { class: "dials" }, ...elements)) : null);
  room.append(
    h("p", { class: "small" }, `Each dial is one dimension of the latent, in standard deviations of the prior${model.gallery ? "; those first that carry most" : ""}.`),
    h("div", { class: "row" },
      h("button", { onclick: () => take(latent.map(() => 0)) }, "All to 0"),
      h("button", { onclick: () => take(latent.map(normal)) }, "Draw from the prior"),
      copyJson, copyCurl),
    h("div", { class: "sliders" },
      h("figure", { class: "picture" }, view.element, model.images ? null : h("p", { class: "small" }, model.units), pace),
      h("div", {}, h("div", { class: "dials" }, ...first),
        folded(`${rest.length} more that carry less`, rest),
        folded(`${inactive.length} that carry next to nothing`, inactive))));
  decode();
  return take;
}

/** One draw from N(0, 1), by Box and Muller. */
const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

/** The same request for a terminal. */
function curl(model, latent) {
  const address = new URL(model.images ? "decode?format=png" : "decode", document.baseURI);
  const out = model.images ? " -o decoded.png" : "";
  return `curl -s '${address}' -H 'Content-Type: application/json' -d '${JSON.stringify({ latents: [latent] })}'${out}`;
}
