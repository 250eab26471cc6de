// Interpolation between two latents, decoded on the way: along the prior and straight.

import { json } from "./api.js";
import { h } from "./dom.js";

const MAX_FRAMES = 24; // of each interpolation
const FRAME_MS = 90;
const NAMES = { prior: "Along the prior", latent: "Straight" };
const CAPTIONS = {
  prior: "Along the prior: through latents that the prior holds probable",
  latent: "Straight: the line between the latents, which may leave them",
};

/** A section with both interpolations as animations and as strips of frames; a click on a frame inspects it. */
export async function interpolation(model, start, end, inspect) {
  const paths = await decodePaths(model, start, end);
  const show = (frame) => paths.forEach(({ view, outputs }) => view.show(outputs[frame]));
  const [button, slider] = player(paths[0].outputs.length, show);
  return h("section", { "aria-label": "Interpolation" },
    h("h3", {}, "Interpolation"),
    h("div", { class: "row" }, button, slider),
    h("div", { class: "views" }, ...paths.map(({ along, view }) =>
      h("figure", {}, view.element, h("figcaption", {}, NAMES[along])))),
    ...paths.map((path) => strip(model, path, inspect)));
}

async function decodePaths(model, start, end) {
  const steps = Math.max(2, Math.min(MAX_FRAMES, model.maxRows));
  return Promise.all(Object.keys(NAMES).map(async (along) => ({
    along,
    view: model.view(`Interpolation: ${NAMES[along]}`),
    ...await json(`interpolate?of=latents&along=${along}&steps=${steps}`, { body: { latents: [start, end] } }),
  })));
}

/** A button that plays the frames to and fro, and a slider that shows one; plays at once unless motion is unwanted. */
function player(frames, show) {
  let timer = null;
  const slider = h("input", {
    type: "range", min: 0, max: frames - 1, value: 0, "aria-label": "Position on the interpolation",
    oninput: () => { stop(); go(Number(slider.value)); },
  });
  const button = h("button", { onclick: () => (timer ? stop() : play()) }, "Play");
  const go = (frame) => {
    slider.value = frame;
    show(frame);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  };
  const play = () => {
    let [frame, step] = [Number(slider.value), 1];
    button.textContent = "Stop";
    timer = setInterval(() => {
      if (!slider.isConnected) stop();
      if (frame + step < 0 || frame + step >= frames) step = -step;
      frame += step;
      go(frame);
    }, FRAME_MS);
  };
  go(0);
  if (!window.matchMedia("(prefers-reduced-motion: reduce)").matches) play();
  return [button, slider];
}

function strip(model, { along, outputs }, inspect) {
  const frame = (output, i) => {
    const title = `frame ${i + 1} of the interpolation, ${NAMES[along].toLowerCase()}`;
    const view = model.view(`Frame ${i + 1} of the interpolation, ${NAMES[along].toLowerCase()}`);
    view.show(output);
    const open = () => inspect({ inputs: [output], name: title });
    return h("button", { onclick: open, "aria-label": `Inspect ${title}` }, view.element);
  };
  return h("figure", {}, h("figcaption", {}, CAPTIONS[along]),
    model.images ? h("div", { class: "strip" }, ...outputs.map(frame)) : null);
}
