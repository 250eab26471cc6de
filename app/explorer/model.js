// What is served, as all parts of the page need it: the card, and where it has one the gallery.

import { call, json } from "./api.js";
import { h } from "./dom.js";
import { paint } from "./pictures.js";
import { bars } from "./charts.js";

export class Model {
  static async load() {
    const card = await json("model");
    let problem = null;
    const gallery = await json("model/gallery").catch((found) => {
      if (found.status === 401) throw found;
      problem = found; // the rest of the page can do without
      return null;
    });
    return new Model(card, gallery, problem);
  }

  constructor(card, gallery, problem = null) {
    this.card = card;
    this.problem = problem; // why there is no gallery
    this.gallery = gallery;
    this.images = card.data.kind === "image";
    this.columns = this.images ? null : card.data.columns;
    this.latent = card.latent;
  }

  /** What is served, in a sentence. */
  get sentence() {
    const { data, latent, training } = this.card;
    const what = this.images
      ? `${data.width} × ${data.height} ${data.channels === 1 ? "grey" : "colour"} images`
      : `rows of ${this.columns.length} columns`;
    const seen = training ? `, fitted to ${this.parts.fitted.toLocaleString("en")} samples of ${training.dataset}` : "";
    return `A variational autoencoder of ${what}${seen}; it describes each by ${latent} numbers.`;
  }

  /** What bars of columns mean. */
  get units() {
    return "Bars reach from the mean of each column, in its standard deviations; the numbers are in its own units.";
  }

  /** Samples by what the training did with them. */
  get parts() {
    const { training: t } = this.card;
    if (!t) return null;
    const [held, aside] = [t.held_out ?? 0, t.settings?.set_aside ?? 0];
    return { fitted: t.samples - held - aside, held, aside };
  }

  /** Where a mean of Q lies on the map. */
  onMap(mean) {
    const { origin, axes } = this.gallery.projection;
    return axes.map((axis) => axis.reduce((sum, part, i) => sum + part * (mean[i] - origin[i]), 0));
  }

  /** Latent dimensions, those that carry most first; in their own order where nobody has measured that. */
  get order() {
    const rates = this.gallery?.rate_per_dimension; // the card's are sorted: they do not tell which is whose
    const all = Array.from({ length: this.latent }, (_, i) => i);
    return rates ? all.sort((a, b) => rates[b] - rates[a]) : all;
  }

  /** How many of those carry more than next to nothing, a hundredth of a nat; all where nobody has measured that. */
  get carrying() {
    return this.gallery ? this.gallery.rate_per_dimension.filter((rate) => rate >= 0.01).length : this.latent;
  }

  /** How many differ from input to input, by their means. */
  get active() {
    return this.gallery?.active_units ?? this.card.evaluation?.active_units ?? this.latent;
  }

  /**
   * How free energies are asked for: as those of the gallery were made, so that they can be held against them; else, so
   * that there are p-values, with the most draws that a calibration has without refinement.
   */
  get protocol() {
    const alike = this.card.calibrations.find((one) => one.samples === 1 && !one.refine && one.seed === 0);
    if (this.gallery && alike) return alike;
    const most = Math.min(64, this.card.limits.max_samples, this.card.limits.max_work);
    const plain = this.card.calibrations.filter((one) => !one.refine && one.samples <= most);
    return plain.sort((a, b) => b.samples - a.samples)[0] ?? { samples: Math.min(16, most), refine: 0, seed: 0 };
  }

  /** How many inputs may come in one answer: of large ones fewer, since numbers as text take ten times their room. */
  get most() {
    const { width, height, channels } = this.card.data;
    const numbers = this.images ? width * height * channels : this.columns.length;
    return Math.max(1, Math.min(this.card.limits.max_rows, Math.floor(2e6 / numbers)));
  }

  /** The inputs of the gallery as one sheet of thumbnails, loaded when first wanted. */
  sheet() {
    this._sheet ??= this.images && this.gallery?.thumbnails
      ? call("model/gallery?format=png", { accept: "image/png" }).then((answer) => answer.blob()).then(createImageBitmap)
      : Promise.resolve(null);
    return this._sheet;
  }

  /** One input of the gallery, with mean and variance of its Q. */
  async input(index) {
    return json(`model/gallery/input?index=${index}`);
  }

  label(index) {
    const { labels, label_names: names } = this.gallery ?? {};
    if (!labels) return null;
    return names?.[labels[index]] ?? String(labels[index]);
  }

  /** An element that shows x, and later others: a canvas for pictures, bars for columns. */
  view(name) {
    if (this.images) {
      const { width, height } = this.card.data;
      const canvas = h("canvas", { class: "pixels", role: "img", "aria-label": name, width, height });
      return { element: canvas, show: (x) => paint(canvas, x) };
    }
    const box = h("div");
    return { element: box, show: (x, other = null) => box.replaceChildren(bars(this.columns, x, other, this.card.data)) };
  }
}
