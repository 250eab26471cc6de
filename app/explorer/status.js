// Load and latency of the running service, from its Prometheus metrics.

import { metrics } from "./api.js";
import { facts, h, number } from "./dom.js";

const INTERVAL_MS = 2000; // between two looks at the metrics
const REASONS = {
  401: "Load and latency are shown to administrators: they need an administrator's key.",
  403: "Load and latency are shown to administrators: they need an administrator's key.",
  404: "Load and latency are not available: a proxy does not forward the metrics.",
};

/** Show the status in an element while it is visible. Returns a function that starts the updates. */
export function serviceStatus(element, card) {
  const backends = Object.entries(card.computed).map(([call, by]) => `${call}: ${by.engine}, ${by.precision}`);
  const threads = `${card.threads} thread${card.threads === 1 ? "" : "s"}`;
  const constants = [["Version", card.version], ["Device", `${card.device}, ${threads}`]];
  let before = null;
  let timer = null;

  async function update() {
    const { status, text } = await metrics().catch(() => ({ status: 0 }));
    const show = (pairs, note) =>
      element.replaceChildren(facts([...constants, ...pairs]), h("p", { class: "small" }, note));
    if (status !== 200) {
      show([], REASONS[status] ?? "The service does not answer.");
      return;
    }
    const now = parse(text);
    const note = `Backends: ${backends.join("; ")}. Updated every ${INTERVAL_MS / 1000} s.`;
    show([...(before ? rates(before, now) : []), ...totals(now)], note);
    before = now;
  }

  return () => {
    clearInterval(timer);
    update();
    timer = setInterval(() => { if (!element.closest("[hidden]") && !document.hidden) update(); }, INTERVAL_MS);
  };
}

function rates(before, now) {
  const seconds = (now.at - before.at) / 1000;
  const buckets = now.buckets.map(([edge, count], i) => [edge, count - (before.buckets[i]?.[1] ?? 0)]);
  return [
    ["Requests per second", number((now.requests - before.requests) / seconds)],
    ["p50, ms", quantile(buckets, 0.5)], ["p99, ms", quantile(buckets, 0.99)],
  ];
}

const totals = ({ requests, total }) => [
  ["Requests", requests.toLocaleString("en")], ["Queued rows", `${total("vae_queue_rows")}`],
  ["Rejected requests", `${total("vae_requests_rejected_total")}`],
  ["Memory, MB", number(total("vae_resident_memory_bytes") / 1e6)],
];

/** The needed figures of Prometheus' text format. */
function parse(text) {
  const lines = text.split("\n").filter((line) => line && !line.startsWith("#")).map((line) => {
    const cut = line.lastIndexOf(" ");
    return [line.slice(0, cut), Number(line.slice(cut + 1))];
  });
  const total = (prefix) =>
    lines.filter(([name]) => name.startsWith(prefix)).reduce((sum, [, value]) => sum + value, 0);
  const buckets = new Map();
  for (const [name, value] of lines) {
    const edge = name.startsWith("vae_request_duration_seconds_bucket") && name.match(/le="([^"]+)"/);
    if (edge) buckets.set(edge[1], (buckets.get(edge[1]) ?? 0) + value);
  }
  return {
    at: performance.now(),
    requests: total("vae_requests_total"),
    buckets: [...buckets].map(([edge, count]) => [edge === "+Inf" ? Infinity : Number(edge), count]),
    total,
  };
}

/** A quantile in milliseconds as a bound: the upper edge of its bucket. */
function quantile(buckets, share) {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (!total) return "–";
  const [edge] = buckets.find(([, count]) => count >= share * total);
  return Number.isFinite(edge) ? `≤ ${number(1000 * edge)}` : `> ${number(1000 * buckets.at(-2)[0])}`;
}
