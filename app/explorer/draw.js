// A board to draw an input on, of the model's own size.

import { h } from "./dom.js";

/** The board. `onDraw` gets the drawing as inputs, 1 x height x width (x 3), after each stroke. */
export function drawingBoard(model, onDraw) {
  const { width, height, channels } = model.card.data;
  const canvas = h("canvas", { class: "pixels", width, height, role: "img", "aria-label":
    `Drawing board of ${width} by ${height} pixels, for mouse, finger or pen` });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const brightness = h("input", { type: "range", min: 0, max: 255, value: 255, "aria-label": "Brightness of the pen" });
  const size = h("input", {
    type: "range", min: 1, max: Math.max(2, Math.round(width / 6)), step: 0.5, value: Math.max(1.5, width / 14),
    "aria-label": "Width of the pen",
  });
  const submit = () => onDraw(read(context, width, height, channels));
  const clear = () => {
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
  };
  let last = null;
  const stroke = (position) => {
    context.strokeStyle = `rgb(${brightness.value} ${brightness.value} ${brightness.value})`;
    context.lineWidth = Number(size.value);
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...position);
    context.stroke();
    last = position;
  };
  const position = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    last = position(event);
    stroke(last);
  });
  canvas.addEventListener("pointermove", (event) => { if (last) stroke(position(event)); });
  canvas.addEventListener("pointerup", () => {
    last = null;
    submit();
  });
  canvas.addEventListener("pointercancel", () => { last = null; });
  clear();
  return h("div", { class: "draw" }, canvas,
    h("div", { class: "row" },
      h("label", {}, "Pen", size), h("label", {}, "Brightness", brightness),
      h("button", { onclick: () => { clear(); submit(); } }, "Clear"),
      h("button", { class: "main", onclick: submit }, "Inspect")));
}

function read(context, width, height, channels) {
  const { data } = context.getImageData(0, 0, width, height);
  const colour = (at) => [data[at] / 255, data[at + 1] / 255, data[at + 2] / 255];
  const pixel = (at) => (channels === 1 ? data[at] / 255 : colour(at));
  const row = (y) => Array.from({ length: width }, (_, x) => pixel(4 * (y * width + x)));
  return [Array.from({ length: height }, (_, y) => row(y))];
}
