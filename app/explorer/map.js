// The latent map: held-out inputs on a plane, to inspect one of them or to interpolate between two.

import { addKeyboardControls, addPointerControls, showAll, zoomIn, zoomOut } from "./controls.js";
import { attempt, h, number } from "./dom.js";
import { interpolation } from "./interpolation.js";
import { RAMP, ramp } from "./pictures.js";
import { paintScatter } from "./scatter.js";
import { Viewport } from "./viewport.js";

// Ten colours, distinct on white and on black and for the colour-blind (after Okabe and Ito, and Tol).
const COLOURS = [
  "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#a6761d", "#7f7f7f", "#b3b300",
];
const SCORES = {
  label: "Label", free_energy: "Free energy", typicality: "Typicality", rate: "Rate", distortion: "Distortion",
};
const MAPS = { embedding: "Neighbours", projection: "Principal components" };
// Quantiles of a score at the ends of the colour scale: one outlier must not make all other points look alike.
const [LOW_QUANTILE, HIGH_QUANTILE] = [0.02, 0.98];

/** Build the tab. Returns a function that marks the inspected input: (index, null for another; mean of Q; name). */
export function map(tab, model, inspect) {
  const { gallery, problem } = model;
  if (problem && problem.status !== 404) {
    const retry = h("button", { onclick: () => location.reload() }, "Try again");
    tab.append(h("p", { class: "warn" }, `The gallery could not be loaded: ${problem.message} `, retry));
    return () => {};
  }
  if (!gallery) {
    tab.append(h("p", {}, "This model was saved without a gallery, so there are no held-out inputs to show. "
      + "Run vae gallery to make one."));
    return () => {};
  }
  const latentMap = new LatentMap(model, inspect);
  tab.append(...latentMap.elements());
  return (...marker) => latentMap.setMarker(...marker);
}

class LatentMap {
  constructor(model, inspect) {
    Object.assign(this, { model, inspect, gallery: model.gallery });
    this.plane = this.planeSelect();
    this.show(this.plane.value);
    // Indices of points, positions on the maps, the first point of an interpolation, a canvas position, a bitmap.
    this.hovered = this.chosen = this.marker = this.start = this.cursor = this.sheet = null;
    this.inspected = 0;
    this.scheduled = false;
    this.interpolations = 0;
    this.canvas = h("canvas", { tabindex: 0, role: "application", "aria-label":
      `${this.points.length} held-out inputs on a plane. Arrow keys choose the next point in that direction, Enter `
      + "inspects it, I starts an interpolation at it and I again ends it there, plus and minus zoom, 0 shows all." });
    this.tip = h("div", { class: "tip", hidden: true });
    this.status = h("p", { class: "small", "aria-live": "polite" });
    this.legend = h("ul", { class: "legend" });
    this.below = h("div");
    this.caption = h("p", { class: "small" });
    this.score = this.scoreSelect();
    addPointerControls(this);
    addKeyboardControls(this);
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    this.updateColours();
    model.sheet().then((sheet) => { this.sheet = sheet; }, () => {});
  }

  elements() {
    const count = this.points.length.toLocaleString("en");
    this.caption.textContent = this.meaning();
    return [
      h("p", { class: "small" }, `Each point is one of ${count} held-out inputs. `
        + "Click a point to inspect it; drag from one point to another to interpolate between them."),
      h("div", { class: "row" },
        h("label", {}, "Map", this.plane),
        h("label", {}, "Colour", this.score),
        h("button", { onclick: () => zoomIn(this), "aria-label": "Zoom in" }, "+"),
        h("button", { onclick: () => zoomOut(this), "aria-label": "Zoom out" }, "−"),
        h("button", { onclick: () => showAll(this) }, "Show all")),
      this.legend, h("div", { class: "plane" }, this.canvas, this.tip), this.status, this.below,
      this.caption,
    ];
  }

  planeSelect() {
    const update = () => {
      this.show(this.plane.value);
      this.caption.textContent = this.meaning();
      this.hover(null);
      this.draw();
    };
    const available = Object.entries(MAPS).filter(([name]) => this.gallery[name]);
    return h("select", { onchange: update }, ...available.map(([name, text]) => h("option", { value: name }, text)));
  }

  /** Show one of the maps whole. */
  show(name) {
    this.points = this.gallery[name].coordinates;
    this.viewport = new Viewport(this.points);
  }

  /** What positions on the shown map mean. */
  meaning() {
    if (this.plane.value === "embedding") {
      return "Inputs whose means of Q are near are near here (t-SNE). Longer distances, and the sizes of groups and gaps, "
        + "mean nothing. Another input lies at the mean of its nearest neighbours.";
    }
    const [a, b] = this.gallery.projection.explained;
    const caveat = a + b < 0.9 ? ", so inputs that look close may be far apart" : "";
    return "The axes are the first two principal components of the means of Q. "
      + `They explain ${number(100 * a, 1)} % and ${number(100 * b, 1)} % of the variance${caveat}.`;
  }

  scoreSelect() {
    const available = Object.entries(SCORES)
      .filter(([name]) => (name === "label" ? this.gallery.labels : this.gallery.scores[name]));
    const update = () => {
      this.updateColours();
      this.draw();
    };
    return h("select", { onchange: update }, ...available.map(([name, text]) => h("option", { value: name }, text)));
  }

  updateColours() {
    if (this.score.value === "label") this.colourByLabel();
    else this.colourByScore(this.score.value);
  }

  colourByLabel() {
    const { labels, label_names: names } = this.gallery;
    this.colours = labels.map(labelColour);
    const kinds = [...new Set(labels)].sort((x, y) => x - y);
    this.legend.replaceChildren(...kinds.map((kind) => {
      const dot = h("i");
      dot.style.background = labelColour(kind);
      return h("li", {}, dot, names?.[kind] ?? String(kind));
    }));
  }

  colourByScore(name) {
    const values = this.gallery.scores[name];
    const sorted = [...values].sort((x, y) => x - y);
    const [low, high] = [LOW_QUANTILE, HIGH_QUANTILE].map((share) => sorted[Math.floor(sorted.length * share)]);
    this.colours = values.map((value) => `rgb(${ramp((value - low) / (high - low || 1))})`);
    const band = h("i", { class: "ramp" });
    band.style.background = RAMP;
    const unit = name === "typicality" ? "" : " nats";
    this.legend.replaceChildren(h("li", {}, `${number(low)} `, band, ` ${number(high)}${unit}`));
  }

  /** Paint in the next frame, once for all changes until then. */
  draw() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      const { points, colours, cursor, start } = this;
      const marker = this.marker?.[this.plane.value] ?? null;
      const rings = [[this.hovered, 2], [this.chosen, 3], [start, 3]];
      const path = start !== null && cursor ? [start, cursor] : null;
      paintScatter(this.canvas, this.viewport, { points, colours, rings, marker, path });
    });
  }

  describe(index) {
    const label = this.model.label(index);
    return `${label ? `${label}, ` : ""}free energy ${number(this.gallery.scores.free_energy[index])} nats`;
  }

  hover(index) {
    if (this.hovered === index) return;
    this.hovered = index;
    this.canvas.classList.toggle("over", index !== null);
    this.tip.hidden = index === null;
    if (index !== null) this.showTip(index);
    this.draw();
  }

  showTip(index) {
    const [x, y] = this.viewport.project(this.points[index]);
    this.tip.replaceChildren(...this.thumbnail(index), h("div", {}, this.describe(index)));
    this.tip.style.left = `${Math.min(x + 14, this.canvas.clientWidth - 120)}px`;
    this.tip.style.top = `${Math.max(0, Math.min(y + 14, this.canvas.clientHeight - 130))}px`;
  }

  thumbnail(index) {
    if (!this.sheet) return [];
    const { columns, width, height } = this.gallery.thumbnails;
    const [x, y] = [(index % columns) * width, Math.floor(index / columns) * height];
    const canvas = h("canvas", { class: "pixels", width, height });
    canvas.getContext("2d").drawImage(this.sheet, x, y, width, height, 0, 0, width, height);
    return [canvas];
  }

  /** Mark the inspected input: a point of the map, or (index null) another input with this mean of Q and this name. */
  async setMarker(index, mean, name) {
    const mine = ++this.inspected;
    this.chosen = index;
    this.marker = null;
    this.status.textContent = index === null
      ? `Inspected, marked by a cross: ${name || "another input"}.`
      : `Inspected: ${this.describe(index)}.`;
    this.draw();
    if (index !== null || !mean) return;
    const marker = await this.model.onMaps(mean).catch(() => null);
    if (mine !== this.inspected) return;
    this.marker = marker;
    if (!marker) this.status.textContent = `Inspected, and not on the map: ${name || "another input"}.`;
    this.draw();
  }

  /** Choose the next point in a direction. */
  choose(direction) {
    const next = this.viewport.neighbour(this.chosen ?? 0, direction);
    if (next === null) return;
    this.chosen = next;
    this.viewport.reveal(this.points[next]);
    this.status.textContent = this.describe(next);
  }

  startInterpolation() {
    this.start = this.chosen;
    this.status.textContent = `Interpolation from ${this.describe(this.start)}. Choose its end and press I.`;
  }

  endInterpolation() {
    const { start } = this;
    this.start = null;
    if (start !== this.chosen) this.interpolate(start, this.chosen);
  }

  async interpolate(start, end) {
    const mine = ++this.interpolations;
    this.status.textContent = `Interpolation from ${this.describe(start)}, to ${this.describe(end)}.`;
    await attempt("interpolation", async () => {
      const [first, last] = await Promise.all([this.model.input(start), this.model.input(end)]);
      const section = await interpolation(this.model, first.mean[0], last.mean[0], this.inspect);
      if (mine === this.interpolations) this.below.replaceChildren(section);
    });
  }
}

const labelColour = (label) => COLOURS[((label % COLOURS.length) + COLOURS.length) % COLOURS.length];
