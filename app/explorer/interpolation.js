// Interpolation between two latents, decoded on the way: linear and spherical.

import { json } from "./api.js";
import { h } from "./dom.js";

const MAX_FRAMES = 24; // of each interpolation
const FRAME_MS = 90;
const CAPTIONS = {
  linear: "Linear: through regions of low prior density",
  spherical: "Spherical: at lengths typical of the prior",
};

const linear = (a, b, t) => a.map((value, i) => value + t * (b[i] - value));

/** Spherical interpolation: angle and length change evenly. Linear if the angle between a and b is 0 or 180 degrees. */
export function spherical(a, b, t) {
  const norm = (v) => Math.hypot(...v);
  const [start, end] = [norm(a), norm(b)];
  const cosine = a.reduce((sum, value, i) => sum + value * b[i], 0) / (start * end || 1);
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  if (angle < 1e-4 || Math.PI - angle < 1e-4) return linear(a, b, t);
  const length = start + t * (end - start);
  const left = Math.sin((1 - t) * angle) / Math.sin(angle) / start;
  const right = Math.sin(t * angle) / Math.sin(angle) / end;
  return a.map((value, i) => length * (left * value + right * b[i]));
}

/** A section with both interpolations as animations and as strips of frames; a click on a frame inspects it. */
export async function interpolation(model, start, end, inspect) {
  const paths = await decodePaths(model, start, end);
  const show = (frame) => paths.forEach(({ view, outputs }) => view.show(outputs[frame]));
  const [button, slider] = player(paths[0].outputs.length, show);
  return h("section", { "aria-label": "Interpolation" },
    h("h3", {}, "Interpolation"),
    h("div", { class: "row" }, button, slider),
    h("div", { class: "views" }, ...paths.map(({ name, view }) =>
      h("figure", {}, view.element, h("figcaption", {}, name === "linear" ? "Linear" : "Spherical")))),
    ...paths.map((path) => strip(model, path, inspect)));
}

async function decodePaths(model, start, end) {
  const frames = Math.max(2, Math.min(MAX_FRAMES, Math.floor(model.maxRows / 2)));
  const steps = Array.from({ length: frames }, (_, i) => i / (frames - 1));
  const between = { linear, spherical };
  const latents = Object.values(between).flatMap((blend) => steps.map((t) => blend(start, end, t)));
  const { outputs } = await json("decode", { body: { latents } });
  return Object.keys(between).map((name, i) => ({
    name,
    view: model.view(`${name === "linear" ? "Linear" : "Spherical"} interpolation`),
    outputs: outputs.slice(i * frames, (i + 1) * frames),
  }));
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

function strip(model, { name, outputs }, inspect) {
  const frame = (output, i) => {
    const title = `frame ${i + 1} of the ${name} interpolation`;
    const view = model.view(`Frame ${i + 1} of the ${name} interpolation`);
    view.show(output);
    const open = () => inspect({ inputs: [output], name: title });
    return h("button", { onclick: open, "aria-label": `Inspect ${title}` }, view.element);
  };
  return h("figure", {}, h("figcaption", {}, CAPTIONS[name]),
    model.images ? h("div", { class: "strip" }, ...outputs.map(frame)) : null);
}
