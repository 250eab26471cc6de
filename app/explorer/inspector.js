// The inspector: takes one input from a file, a drawing, a row, the map or a sample, and reports on it.

import { json } from "./api.js";
import { attempt, h } from "./dom.js";
import { drawingBoard } from "./draw.js";
import { report } from "./report.js";

// Another input has replaced this one: neither its result nor its error is shown.
const SUPERSEDED = new DOMException("superseded", "AbortError");

/**
 * Build the inspector. Returns a function that inspects {file}, {inputs: 1 x ...} or {index} of the gallery. `onShow`
 * gets (index or null, mean of Q, name) of each input that is shown, `onApply` a latent for the sliders.
 */
export function inspector(section, model, { onApply, onShow }) {
  const result = h("div", { id: "inspection", "aria-live": "polite", "aria-busy": "false" });
  let [requests, current] = [0, null];
  const apply = h("button", { disabled: true, onclick: () => onApply(current.mean) }, "Open in sliders");

  async function show(source, mine) {
    if (source.file?.type && !source.file.type.startsWith("image/")) {
      throw new Error(`${source.name ?? "This file"} is not an image.`);
    }
    const inspection = await examine(model, source);
    const title = titleOf(inspection, source);
    const parts = report(model, inspection, title);
    if (mine !== requests) return;
    onShow(source.index ?? null, inspection.mean, title);
    current = inspection;
    apply.disabled = false;
    result.replaceChildren(...parts);
  }

  async function inspect(source) {
    const mine = ++requests;
    result.setAttribute("aria-busy", "true");
    await attempt("inspect", async () => {
      try {
        await show(source, mine);
      } catch (error) {
        if (mine !== requests) throw SUPERSEDED;
        const prefix = result.querySelector("#shown");
        if (prefix) prefix.textContent = "Still showing: ";
        throw error;
      } finally {
        if (mine === requests) result.setAttribute("aria-busy", "false");
      }
      if (mine !== requests) throw SUPERSEDED;
    });
  }

  const [tools, extra] = model.images ? imageTools(model, inspect) : [[], [rowForm(model, inspect)]];
  if (model.images) acceptDropAndPaste(section, inspect);
  if (model.gallery) {
    const random = () => inspect({ index: Math.floor(Math.random() * model.gallery.inputs) });
    tools.push(h("button", { onclick: random }, "Random held-out input"));
  }
  section.append(
    h("p", { class: "small" }, model.images
      ? "Drop, paste, open or draw an image, or click a point of the map or a sample."
      : "Fill in a row, or click a point of the map or a sample."),
    h("div", { class: "row" }, ...tools, apply), ...extra, result);
  return inspect;
}

function imageTools(model, inspect) {
  const open = () => {
    const [file] = input.files;
    if (file) inspect({ file, name: file.name });
    input.value = "";
  };
  const input = h("input", { type: "file", accept: "image/*", "aria-label": "Open an image", onchange: open });
  const board = drawingBoard(model, (inputs) => inspect({ inputs, name: "your drawing" }));
  board.hidden = true;
  const toggle = () => {
    board.hidden = !board.hidden;
    draw.setAttribute("aria-expanded", String(!board.hidden));
  };
  const draw = h("button", { "aria-expanded": "false", onclick: toggle }, "Draw an image");
  return [[h("span", { class: "button file" }, "Open an image …", input), draw], [board]];
}

/** Accept images anywhere on the page: a browser leaves the page for a dropped file that nothing accepts. */
function acceptDropAndPaste(section, inspect) {
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    section.classList.add("drop");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) section.classList.remove("drop");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    section.classList.remove("drop");
    const [file] = event.dataTransfer.files;
    if (file) inspect({ file, name: file.name });
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (file) inspect({ file, name: "the pasted image" });
  });
}

/** All that the service computes for one input. */
async function examine(model, source) {
  let { inputs, file, index } = source;
  let label = null;
  if (index !== undefined) {
    ({ inputs } = await model.input(index));
    label = model.label(index);
  }
  const options = file ? { body: file, type: file.type || "image/png" } : { body: { inputs } };
  const { inputs: x, outputs } = await json("reconstruct?inputs=true", options);
  const { samples, seed } = model.protocol;
  const query = `samples=${samples}&seed=${seed}&per_dimension=true`;
  // Encode and score the input as the model sees it, after conversion, so that all results belong together.
  const [q, scores] = await Promise.all([
    json("encode", { body: { inputs: x } }),
    json(`free-energy?${query}`, { body: { inputs: x } }),
  ]);
  return { x: x[0], reconstruction: outputs[0], mean: q.mean[0], variance: q.variance[0], scores, label, samples };
}

const titleOf = ({ label }, { name, index }) =>
  [name, label].filter(Boolean).join(", ") || `held-out input ${index}`;

/** A form with a field for each column. */
function rowForm(model, inspect) {
  const fields = model.columns.map((name, i) => {
    const input = h("input", { type: "number", step: "any", required: true });
    const mean = model.card.data.mean?.[i];
    if (mean !== undefined) input.value = Number(mean.toPrecision(4));
    return { input, label: h("label", {}, name, input) };
  });
  const submit = (event) => {
    event.preventDefault();
    inspect({ inputs: [fields.map(({ input }) => Number(input.value))], name: "your row" });
  };
  return h("details", {}, h("summary", {}, "Enter a row"), h("form", { onsubmit: submit },
    h("div", { class: "columns" }, ...fields.map(({ label }) => label)),
    h("p", {}, h("button", { class: "main" }, "Inspect"))));
}
