// What was trained on what, how well it did, what is wrong with it, and how the service fares.

import { metrics } from "./api.js";
import { h, say, why } from "./dom.js";
import { curves, histogram, rates } from "./charts.js";

const EVERY = 2000; // milliseconds between two looks at the service
// When to warn, as the report on paper does: the share of scales at their floor, and of the whole descent that held-out
// free energy has climbed back.
const [HELD_UP, CLIMBED] = [0.05, 0.02];

export function card(room, model) {
  const { card: c, gallery } = model;
  const facts = (pairs) => h("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  const t = c.training;
  const e = c.evaluation;
  const running = h("div");
  room.append(
    ...warnings(model).map((text) => h("p", { class: "warn" }, text)),
    h("h3", {}, "What it is"),
    facts([
      ["Name", c.name], ["Network", c.network.name], ["Latent", `${c.latent} numbers, ${model.active} active`],
      ["Likelihood", `${c.likelihood.name}${c.likelihood.autoregressive ? ", autoregressive" : ""}`],
      ["Weights", c.weights.toLocaleString("en")], ["Made", c.created], ["Digest", c.digest.slice(0, 12)],
      ["Score for outliers", c.anomaly_score.replace("_", " ")],
    ]),
    h("h3", {}, "How it was trained"),
    t ? facts([
      ["Data", t.dataset], ["Samples that fitted it", model.parts.fitted.toLocaleString("en")], ["That chose its epoch", model.parts.held.toLocaleString("en")], ["Set aside", model.parts.aside.toLocaleString("en")],
      ["Epochs", t.settings?.epochs && `${t.epoch} of ${t.settings.epochs}`], ["Time to the best", duration(t.seconds)], ["Machine", t.machine],
    ]) : h("p", {}, "The card says nothing of it."),
    ...learning(gallery),
    t?.command ? h("details", {}, h("summary", {}, "The command"), h("p", { class: "formula" }, t.command)) : null,
    h("h3", {}, "How well it does on data that it has not seen"),
    ...held(e, t),
    ...(gallery?.histogram ? [h("h3", {}, "Free energies of held-out inputs"), histogram(gallery.histogram), h("p", { class: "small" }, "Free energy in nats, and how many have it.")] : []),
    ...dimensions(model),
    h("h3", {}, "The service"), running);
  return watching(running, model);
}

function warnings(model) {
  const { card: c, gallery, active } = model;
  const said = [];
  const e = c.evaluation;
  if (active === 0) said.push("The latent has collapsed: no dimension says anything of an input, and the decoder gives the same for all. Train with a smaller decoder, a larger latent or --auxiliary.");
  else if (active < c.latent) said.push(`${c.latent - active} of ${c.latent} latent dimensions are inactive. A latent of ${active} would do as well.`);
  if (e?.scales_at_floor > HELD_UP) said.push(`${say(100 * e.scales_at_floor)} % of the decoder's scales are at their floor: free energies are as low as the floor allows, and no lower where the data would allow it.`);
  if (!c.calibrations.length) said.push("There is no calibration, so scores have no p-values. vae calibrate makes one.");
  if (!e) said.push("It was never judged on data of its own: vae evaluate --save does that.");
  const [first, best, last] = [gallery?.learning?.[0], bestOf(gallery), gallery?.learning?.at(-1)];
  const climbed = best && last.free_energy - best.free_energy;
  if (climbed > 0 && climbed > CLIMBED * (first.free_energy - best.free_energy) && last.train_free_energy < best.train_free_energy) {
    said.push(`The training went on into overfitting. It cost time and nothing else: epoch ${best.epoch} was the best, and is the one that is served.`);
  }
  return said;
}

/** The epoch that was the best by the inputs held out. */
function bestOf(gallery) {
  return (gallery?.learning ?? []).reduce((best, epoch) => (best && best.free_energy <= epoch.free_energy ? best : epoch), null);
}

function learning(gallery) {
  const records = gallery?.learning ?? [];
  const lines = [["in training", "third", "train_free_energy"], ["held out", "first", "free_energy"]]
    .map(([name, kind, key]) => ({ name, kind, values: records.map((record) => [record.epoch, record[key]]).filter(([, value]) => Number.isFinite(value)) }))
    .filter((line) => line.values.length > 1);
  if (!lines.length) return [];
  return [curves(lines, "Free energy over the epochs, of inputs that were fitted and of those that were not.", bestOf(gallery).epoch),
    h("p", { class: "small" }, "Free energy in nats over the epochs; the best epoch is marked. In training it is the mean over an epoch, with the weights of their time, and so starts higher. Where the blue line turns up while the grey one goes on down, the model begins to learn its inputs by heart.")];
}

function held(e, t) {
  if (!e) {
    const scores = t?.held_out_scores;
    if (!scores) return [h("p", {}, "Nobody has measured it yet.")];
    return [h("p", {}, `On the inputs that chose its best epoch: ${say(scores.free_energy)} nats${scores.bits_per_dim ? `, ${say(scores.bits_per_dim)} bits per dimension` : ""}.`)];
  }
  const codecs = e.codecs_bits_per_dim ? Object.entries(e.codecs_bits_per_dim).map(([name, bits]) => `${name} ${say(bits)}`).join(", ") : null;
  const detection = e.detection?.[0];
  return [
    h("p", {}, `${e.samples.toLocaleString("en")} samples of ${e.dataset}: free energy ${say(e.free_energy)} ± ${say(e.free_energy_standard_error)} nats`,
      e.bits_per_dim ? `, ${say(e.bits_per_dim)} ± ${say(e.bits_per_dim_standard_error)} bits per dimension` : "",
      `; nlog P(x) at most ${say(e.nlog_p_x)} nats by ${e.draws} draws.`),
    e.portion === "held_out" ? h("p", { class: "warn" }, "These samples have chosen its best epoch, which flatters it a little.") : null,
    codecs ? h("p", { class: "small" }, `Other codecs on the same images, bits per dimension: ${codecs}.`) : null,
    detection ? h("div", { class: "wide" }, h("table", {},
      h("caption", { class: "small" }, "How often an outlier scores higher than a test sample (AUROC; 0.5 is chance)"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Outliers"), h("th", { scope: "col", class: "number" }, "Typicality"), h("th", { scope: "col", class: "number" }, "Free energy"))),
      h("tbody", {}, ...Object.entries(detection.auroc).map(([name, by]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "number" }, say(by.typicality, 3)), h("td", { class: "number" }, say(by.free_energy, 3))))))) : null,
  ].filter(Boolean);
}

function dimensions(model) {
  const values = model.gallery?.rate_per_dimension ?? model.card.evaluation?.rate_per_dimension;
  if (!values) return [];
  return [
    h("h3", {}, "What each latent dimension carries"), rates(values, model.active),
    h("p", { class: "small" }, `Rate in nats, the most first; ${model.active} of ${values.length} are active${model.gallery ? ", over the held-out inputs" : ""}.`),
    why("When is a dimension active?", "When its mean differs from input to input: its variance over the data is above 0.01 (Burda et al. 2016). The others say the same of every input, and cost nothing."),
  ];
}

const duration = (seconds) => (!Number.isFinite(seconds) ? null : seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} minutes`);

/** Load and latency of the running service, for as long as somebody looks. Returns a function to call when they do. */
function watching(box, model) {
  const { card: c } = model;
  const computed = Object.entries(c.computed).map(([name, by]) => `${name}: ${by.engine}, ${by.precision}`).join("; ");
  let before = null;
  let timer = null;
  async function look() {
    const { status, text } = await metrics().catch(() => ({ status: 0 }));
    const pairs = [["Version", c.version], ["Device", `${c.device}, ${c.threads} thread${c.threads === 1 ? "" : "s"}`]];
    if (status !== 200) {
      const reason = status === 401 || status === 403
        ? "Its load and latency are for administrators: with one of their keys they would be here."
        : status === 404 ? "Its load and latency cannot be seen from here: what stands before it does not pass them on." : "It does not answer.";
      box.replaceChildren(list(pairs), h("p", { class: "small" }, reason));
      return;
    }
    const now = read(text);
    const seconds = before ? (now.at - before.at) / 1000 : null;
    if (seconds) {
      const asked = now.count - before.count;
      const buckets = now.buckets.map(([edge, count], i) => [edge, count - (before.buckets[i]?.[1] ?? 0)]);
      pairs.push(["Requests a second", say(asked / seconds)], ["p50, ms", quantile(buckets, 0.5)], ["p99, ms", quantile(buckets, 0.99)]);
    }
    pairs.push(["Requests in all", now.count.toLocaleString("en")], ["Rows waiting", `${now.value("vae_queue_rows")}`], ["Refused", `${now.value("vae_requests_rejected_total")}`], ["Memory, MB", say(now.value("vae_resident_memory_bytes") / 1e6)]);
    before = now;
    box.replaceChildren(list(pairs), h("p", { class: "small" }, `Computed by ${computed}. Looked at every ${EVERY / 1000} s.`));
  }
  const list = (pairs) => h("dl", { class: "facts" }, ...pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  return () => {
    clearInterval(timer);
    look();
    timer = setInterval(() => { if (box.closest("[hidden]") || document.hidden) return; look(); }, EVERY);
  };
}

/** What the page needs of Prometheus' text. */
function read(text) {
  const lines = text.split("\n").filter((line) => line && !line.startsWith("#")).map((line) => {
    const cut = line.lastIndexOf(" ");
    return [line.slice(0, cut), Number(line.slice(cut + 1))];
  });
  const sum = (prefix) => lines.filter(([name]) => name.startsWith(prefix)).reduce((total, [, value]) => total + value, 0);
  const buckets = new Map();
  for (const [name, value] of lines) {
    const edge = name.startsWith("vae_request_duration_seconds_bucket") && name.match(/le="([^"]+)"/);
    if (edge) buckets.set(edge[1], (buckets.get(edge[1]) ?? 0) + value);
  }
  return {
    at: performance.now(),
    count: sum("vae_requests_total"),
    buckets: [...buckets].map(([edge, count]) => [edge === "+Inf" ? Infinity : Number(edge), count]),
    value: (name) => sum(name),
  };
}

/** In milliseconds, by the histogram's edges: "at most". */
function quantile(buckets, share) {
  const whole = buckets.at(-1)?.[1] ?? 0;
  if (!whole) return "–";
  const [edge] = buckets.find(([, count]) => count >= share * whole);
  return Number.isFinite(edge) ? `≤ ${say(1000 * edge)}` : `> ${say(1000 * buckets.at(-2)[0])}`;
}
