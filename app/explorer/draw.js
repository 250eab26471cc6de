// A board to draw on, of the model's own size.

import { h } from "./dom.js";

/** `use` gets the drawing as inputs, 1 x height x width (x 3), after each stroke. */
export function drawing(model, use) {
  const { width, height, channels } = model.card.data;
  const canvas = h("canvas", { class: "pixels", width, height, role: "img", "aria-label": `A board of ${width} by ${height} pixels to draw on with a mouse, a finger or a pen` });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const shade = h("input", { type: "range", min: 0, max: 255, value: 255, "aria-label": "Brightness of the pen" });
  const size = h("input", { type: "range", min: 1, max: Math.max(2, Math.round(width / 6)), step: 0.5, value: Math.max(1.5, width / 14), "aria-label": "Width of the pen" });
  const clear = () => {
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };
  let last = null;
  const stroke = (event) => {
    const now = place(event);
    context.strokeStyle = `rgb(${shade.value} ${shade.value} ${shade.value})`;
    context.lineWidth = Number(size.value);
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...now);
    context.stroke();
    last = now;
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => { if (last) stroke(event); });
  canvas.addEventListener("pointerup", () => {
    last = null;
    look();
  });
  canvas.addEventListener("pointercancel", () => { last = null; });
  const look = () => use(read(context, width, height, channels));
  clear();
  return h("div", { class: "draw" }, canvas,
    h("div", { class: "row" }, h("label", {}, "Pen", size), h("label", {}, "Brightness", shade), h("button", { onclick: () => { clear(); look(); } }, "Clear"),
      h("button", { class: "main", onclick: look }, "Look at it")));
}

function read(context, width, height, channels) {
  const { data } = context.getImageData(0, 0, width, height);
  const pixel = (at) => (channels === 1 ? data[at] / 255 : [data[at] / 255, data[at + 1] / 255, data[at + 2] / 255]);
  return [Array.from({ length: height }, (_, row) => Array.from({ length: width }, (_, column) => pixel(4 * (row * width + column))))];
}
