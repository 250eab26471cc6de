// The served model: its card and, if there is one, its gallery.

import { call, json } from "./api.js";
import { h } from "./dom.js";
import { paint } from "./pictures.js";
import { bars } from "./charts.js";

const [DEFAULT_DRAWS, MAX_DRAWS] = [16, 64]; // of z, for one score
const MAX_NUMBERS = 2e6; // in one response

export class Model {
  /** Load card and gallery. The page works without a gallery; only a missing key stops it. */
  static async load() {
    const card = await json("model");
    let problem = null;
    const gallery = await json("model/gallery").catch((error) => {
      if (error.status === 401) throw error;
      problem = error;
      return null;
    });
    return new Model(card, gallery, problem);
  }

  constructor(card, gallery, problem = null) {
    this.card = card;
    this.problem = problem; // the error if the gallery could not be loaded
    this.gallery = gallery;
    this.images = card.data.kind === "image";
    this.columns = this.images ? null : card.data.columns;
    this.latent = card.latent;
  }

  /** The model in one sentence. */
  get description() {
    const { data, latent, training } = this.card;
    const inputs = this.images
      ? `${data.width} × ${data.height} ${data.channels === 1 ? "grey" : "colour"} images`
      : `rows of ${this.columns.length} columns`;
    const fitted = this.parts?.fitted.toLocaleString("en");
    const dataset = training ? `, trained on ${fitted} samples of ${training.dataset}` : "";
    return `Variational autoencoder of ${inputs} with ${latent} latent dimensions${dataset}.`;
  }

  /** The meaning of bars of columns. */
  get units() {
    return "Bars start at the mean of each column, in its standard deviations; numbers are in its own units.";
  }

  /** Number of samples that training fitted, held out to choose the epoch, and set aside. */
  get parts() {
    const { training: t } = this.card;
    if (!t) return null;
    const [heldOut, setAside] = [t.held_out ?? 0, t.settings?.set_aside ?? 0];
    return { fitted: t.samples - heldOut - setAside, heldOut, setAside };
  }

  /** Position of a mean of Q on each map: {projection, embedding}, the latter null if there is none. */
  async onMaps(mean) {
    const { projection, embedding } = await json("model/gallery/place", { body: { latents: [mean] } });
    return { projection: projection[0], embedding: embedding?.[0] ?? null };
  }

  /** Latent dimensions by descending KL(Q, N(0, 1)); in their own order if that is unknown. */
  get order() {
    const divergence = this.gallery?.kl_to_normal; // the card has it too, but sorted
    const all = Array.from({ length: this.latent }, (_, i) => i);
    return divergence ? all.sort((a, b) => divergence[b] - divergence[a]) : all;
  }

  /** Number of dimensions whose KL(Q, N(0, 1)) is at least 0.01 nats; all if that is unknown. */
  get informative() {
    return this.gallery ? this.gallery.kl_to_normal.filter((nats) => nats >= 0.01).length : this.latent;
  }

  /** Number of dimensions whose means differ between inputs. */
  get active() {
    return this.gallery?.active_units ?? this.card.evaluation?.active_units ?? this.latent;
  }

  /**
   * Draws, refinement steps and seed of the scores: those of the gallery, so that scores can be compared with it.
   * Without a gallery those of the calibration with most draws and no refinement, so that there are p-values.
   */
  get protocol() {
    const { calibrations, limits } = this.card;
    const own = calibrations.find(({ samples, refine, seed }) => samples === 1 && !refine && seed === 0);
    if (this.gallery && own) return own;
    const most = Math.min(MAX_DRAWS, limits.max_samples, limits.max_work);
    const usable = calibrations.filter(({ samples, refine }) => !refine && samples <= most);
    const [best] = usable.sort((a, b) => b.samples - a.samples);
    return best ?? { samples: Math.min(DEFAULT_DRAWS, most), refine: 0, seed: 0 };
  }

  /** Number of inputs to ask for at once: fewer if they are large, since JSON takes ten times their size. */
  get maxRows() {
    const { width, height, channels } = this.card.data;
    const numbers = this.images ? width * height * channels : this.columns.length;
    return Math.max(1, Math.min(this.card.limits.max_rows, Math.floor(MAX_NUMBERS / numbers)));
  }

  /** One bitmap of all thumbnails of the gallery, loaded once; null if there is none. */
  sheet() {
    this._sheet ??= this.images && this.gallery?.thumbnails
      ? call("model/gallery?format=png", { accept: "image/png" })
        .then((response) => response.blob()).then(createImageBitmap)
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

  /** An element and a function that shows an input in it: a canvas for images, bars for columns. */
  view(name) {
    if (this.images) {
      const { width, height } = this.card.data;
      const canvas = h("canvas", { class: "pixels", role: "img", "aria-label": name, width, height });
      return { element: canvas, show: (x) => paint(canvas, x) };
    }
    const box = h("div");
    return { element: box, show: (x) => box.replaceChildren(bars(this.columns, x, null, this.card.data)) };
  }
}
