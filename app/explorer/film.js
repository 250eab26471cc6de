// From one latent to another, decoded on the way: straight, and along the sphere on which latents of the prior lie.

import { json } from "./api.js";
import { h } from "./dom.js";

const MOST = 24; // frames of each way

const straight = (a, b, t) => a.map((value, i) => value + t * (b[i] - value));

/** Spherical interpolation: the angle grows evenly, and so does the length. */
export function spherical(a, b, t) {
  const norm = (v) => Math.hypot(...v);
  const [from, to] = [norm(a), norm(b)];
  const cosine = a.reduce((sum, value, i) => sum + value * b[i], 0) / (from * to || 1);
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  if (angle < 1e-4 || Math.PI - angle < 1e-4) return straight(a, b, t); // no one way round
  const length = from + t * (to - from);
  const [left, right] = [Math.sin((1 - t) * angle) / Math.sin(angle) / from, Math.sin(t * angle) / Math.sin(angle) / to];
  return a.map((value, i) => length * (left * value + right * b[i]));
}

/** Both ways as a film and as strips; a click on a frame opens it. */
export async function film(model, start, end, open) {
  const frames = Math.max(2, Math.min(MOST, Math.floor(model.most / 2)));
  const steps = Array.from({ length: frames }, (_, i) => i / (frames - 1));
  const paths = [
    { name: "straight", latents: steps.map((t) => straight(start, end, t)) },
    { name: "spherical", latents: steps.map((t) => spherical(start, end, t)) },
  ];
  const { outputs } = await json("decode", { body: { latents: paths.flatMap((path) => path.latents) } });
  const screens = paths.map((path, i) => {
    const view = model.view(`The ${path.name} way`);
    return { ...path, view, outputs: outputs.slice(i * frames, (i + 1) * frames) };
  });
  const slider = h("input", { type: "range", min: 0, max: frames - 1, value: 0, "aria-label": "Place on the way", oninput: () => { stop(); show(Number(slider.value)); } });
  let timer = null;
  const show = (frame) => {
    slider.value = frame;
    screens.forEach((screen) => screen.view.show(screen.outputs[frame]));
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
      show(frame);
    }, 90);
  };
  const button = h("button", { onclick: () => (timer ? stop() : play()) }, "Play");
  show(0);
  if (!window.matchMedia("(prefers-reduced-motion: reduce)").matches) play();
  const strip = (screen) => h("figure", {},
    h("figcaption", {}, screen.name === "straight" ? "Straight: through where the prior has little" : "Spherical: at lengths that the prior has"),
    model.images
      ? h("div", { class: "strip" }, ...screen.outputs.map((output, i) => {
        const small = model.view(`Frame ${i + 1} of the ${screen.name} way`);
        small.show(output);
        return h("button", { onclick: () => open({ inputs: [output], name: `frame ${i + 1} of the ${screen.name} way` }), "aria-label": `Open frame ${i + 1} of the ${screen.name} way` }, small.element);
      }))
      : null);
  return h("section", { "aria-label": "The walk" },
    h("h3", {}, "From one to the other"),
    h("div", { class: "row" }, button, slider),
    h("div", { class: "views" }, ...screens.map((screen) => h("figure", {}, screen.view.element, h("figcaption", {}, screen.name)))),
    ...screens.map(strip));
}
