// The held-out inputs on a plane: look, hover, open one, or walk from one to another.

import { attempt, h, say } from "./dom.js";
import { RAMP, ramp } from "./pictures.js";
import { film } from "./film.js";

// Ten colours that are told apart on white and on black, by the colour-blind too (after Okabe and Ito, and Tol).
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#a6761d", "#7f7f7f", "#b3b300"];
const NEAR = 12; // pixels

export function map(room, model, open) {
  const { gallery } = model;
  if (model.problem && model.problem.status !== 404) {
    room.append(h("p", { class: "warn" }, `The gallery could not be loaded: ${model.problem.message} `, h("button", { onclick: () => location.reload() }, "Try again")));
    return () => {};
  }
  if (!gallery) {
    room.append(h("p", {}, "This model was saved without a gallery, so there are no held-out inputs to show. "
      + "vae gallery makes one."));
    return () => {};
  }
  const points = gallery.projection.coordinates;
  const view = new View(points);
  const canvas = h("canvas", { tabindex: 0, role: "application", "aria-label":
    `${points.length} held-out inputs on a plane. Arrow keys go from one to the next in that direction, Enter opens it, W begins a walk from it and W again ends it there, plus and minus zoom, 0 shows all.` });
  const tip = h("div", { class: "tip", hidden: true });
  const plane = h("div", { class: "plane" }, canvas, tip);
  const said = h("p", { class: "small", "aria-live": "polite" });
  const legend = h("ul", { class: "legend" });
  const below = h("div");

  const names = Object.entries({ label: "Label", free_energy: "Free energy", typicality: "Typicality", rate: "Rate", distortion: "Distortion" })
    .filter(([name]) => (name === "label" ? gallery.labels : gallery.scores[name]));
  const by = h("select", { onchange: () => { colour(); draw(); } }, ...names.map(([name, text]) => h("option", { value: name }, text)));
  const [a, b] = gallery.projection.explained;
  room.append(
    h("p", { class: "small" }, `Each point is one of ${points.length.toLocaleString("en")} inputs that the model was not fitted to. `
      + "Click one to put it under the glass; drag from one to another to walk between them."),
    h("div", { class: "row" },
      h("label", {}, "Colour ", by),
      h("button", { onclick: () => { view.zoom(1.5); draw(); }, "aria-label": "Zoom in" }, "+"),
      h("button", { onclick: () => { view.zoom(1 / 1.5); draw(); }, "aria-label": "Zoom out" }, "−"),
      h("button", { onclick: () => { view.reset(); draw(); } }, "All")),
    legend, plane, said, below,
    h("p", { class: "small" }, `Where a point lies: the two directions of the latent in which the means of Q differ most (PCA); they have ${say(100 * a, 1)} % and ${say(100 * b, 1)} % of all variance${a + b < 0.9 ? ", so much that is far apart looks near" : ""}.`));

  let colours = [];
  function colour() {
    const name = by.value;
    if (name === "label") {
      colours = gallery.labels.map(colourOf);
      const kinds = [...new Set(gallery.labels)].sort((x, y) => x - y);
      legend.replaceChildren(...kinds.map((kind) => h("li", {}, dot(colourOf(kind)), gallery.label_names?.[kind] ?? String(kind))));
      return;
    }
    const values = gallery.scores[name];
    const sorted = [...values].sort((x, y) => x - y);
    // The middle 96 of a hundred take the whole range of colours: one outlier must not make all others alike.
    const [low, high] = [sorted[Math.floor(sorted.length * 0.02)], sorted[Math.floor(sorted.length * 0.98)]];
    colours = values.map((value) => `rgb(${ramp((value - low) / (high - low || 1))})`);
    const band = h("i", { class: "ramp" });
    band.style.background = RAMP;
    legend.replaceChildren(h("li", {}, `${say(low)} `, band, ` ${say(high)}${name === "typicality" ? "" : " nats"}`));
  }

  let [hovered, chosen, guest, from, cursor, sheet] = [null, null, null, null, null, null];
  let waiting = false;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; render(); });
  }
  function render() {
    const density = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width) return;
    if (canvas.width !== Math.round(width * density) || canvas.height !== Math.round(height * density)) {
      canvas.width = Math.round(width * density);
      canvas.height = Math.round(height * density);
    }
    view.fit(width, height);
    const context = canvas.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    const size = Math.min(7, 2.4 * (2000 / points.length) ** 0.25 * Math.sqrt(view.magnified)); // few may be larger
    context.globalAlpha = 0.85;
    points.forEach((point, i) => {
      const [x, y] = view.at(point);
      if (x < -9 || y < -9 || x > width + 9 || y > height + 9) return;
      context.fillStyle = colours[i];
      context.beginPath();
      context.arc(x, y, size, 0, 7);
      context.fill();
    });
    context.globalAlpha = 1;
    const ink = getComputedStyle(canvas).color;
    for (const [i, width_] of [[hovered, 2], [chosen, 3], [from, 3]]) {
      if (i === null) continue;
      const [x, y] = view.at(points[i]);
      context.strokeStyle = ink;
      context.lineWidth = width_;
      context.beginPath();
      context.arc(x, y, size + 4, 0, 7);
      context.stroke();
    }
    if (guest) {
      // At the edge where it lies outside.
      const [x, y] = view.at(guest).map((at, axis) => Math.min([width, height][axis] - 10, Math.max(10, at)));
      for (const [colour, line] of [[getComputedStyle(canvas).backgroundColor, 7], [ink, 3]]) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.beginPath();
        for (const way of [1, -1]) {
          context.moveTo(x - 8, y - 8 * way);
          context.lineTo(x + 8, y + 8 * way);
        }
        context.stroke();
      }
    }
    if (from !== null && cursor) {
      const [x, y] = view.at(points[from]);
      context.setLineDash([5, 4]);
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(...cursor);
      context.stroke();
      context.setLineDash([]);
    }
  }

  function words(i) {
    const label = model.label(i);
    return `${label ? `${label}, ` : ""}free energy ${say(gallery.scores.free_energy[i])} nats`;
  }

  function hover(i) {
    if (hovered === i) return;
    hovered = i;
    canvas.classList.toggle("over", i !== null);
    tip.hidden = i === null;
    if (i !== null) {
      const [x, y] = view.at(points[i]);
      tip.replaceChildren(...thumbnail(i), h("div", {}, words(i)));
      tip.style.left = `${Math.min(x + 14, canvas.clientWidth - 120)}px`;
      tip.style.top = `${Math.max(0, Math.min(y + 14, canvas.clientHeight - 130))}px`;
    }
    draw();
  }

  function thumbnail(i) {
    if (!sheet) return [];
    const { columns, width, height } = gallery.thumbnails;
    const small = h("canvas", { class: "pixels", width, height });
    small.getContext("2d").drawImage(sheet, (i % columns) * width, Math.floor(i / columns) * height, width, height, 0, 0, width, height);
    return [small];
  }

  /** What is under the glass is one of these, or (null) something else, with this mean of Q and name. */
  function mark(i, mean, name) {
    chosen = i;
    guest = i === null && mean ? model.onMap(mean) : null;
    said.textContent = i === null ? `Under the glass, and marked by a cross: ${name || "another input"}.` : `Under the glass: ${words(i)}.`;
    draw();
  }

  let turn = 0;
  async function walk(i, j) {
    const mine = ++turn;
    said.textContent = `From ${words(i)}, to ${words(j)}.`;
    await attempt("walk", async () => {
      const [first, second] = await Promise.all([model.input(i), model.input(j)]);
      const shown = await film(model, first.mean[0], second.mean[0], open);
      if (mine === turn) below.replaceChildren(shown);
    });
  }

  // A pointer: from a point to a point is a walk, from nowhere a pan, and in place a click.
  const pointers = new Map();
  let pressed = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    pressed = pointers.size === 1 ? { at: place(event), point: view.nearest(place(event), NEAR), moved: false } : null;
    if (pressed?.point !== null && pressed) from = pressed.point;
    hover(null);
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = place(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      hover(view.nearest(now, NEAR));
      return;
    }
    if (pointers.size === 2) {
      const [other] = [...pointers.entries()].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const distance = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
      view.zoom(distance(now) / (distance(before) || 1), other);
      from = null;
    } else if (pressed) {
      pressed.moved ||= Math.hypot(now[0] - pressed.at[0], now[1] - pressed.at[1]) > 4;
      if (pressed.point === null) view.pan(now[0] - before[0], now[1] - before[1]);
      else {
        cursor = now;
        hovered = view.nearest(now, NEAR);
      }
    }
    pointers.set(event.pointerId, now);
    draw();
  });
  const released = (event) => {
    const was = pressed;
    pointers.delete(event.pointerId);
    [pressed, from, cursor] = [null, null, null];
    hovered = null;
    draw();
    if (!was || event.type === "pointercancel") return;
    const end = view.nearest(place(event), NEAR);
    if (!was.moved && was.point !== null) open(was.point);
    else if (was.point !== null && end !== null && end !== was.point) walk(was.point, end);
  };
  canvas.addEventListener("pointerup", released);
  canvas.addEventListener("pointercancel", released);
  canvas.addEventListener("pointerleave", () => { if (!pointers.size) hover(null); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    view.zoom(Math.exp(-event.deltaY * 0.0015), place(event));
    hover(null);
    draw();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // the browser's own
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (ways[event.key]) {
      const next = view.towards(chosen ?? 0, ways[event.key]);
      if (next !== null) {
        chosen = next;
        view.show(points[next]);
        said.textContent = words(next);
      }
    } else if (event.key === "Enter" && chosen !== null) open(chosen);
    else if (event.key.toLowerCase() === "w" && chosen !== null) {
      if (from === null) {
        from = chosen;
        said.textContent = `A walk from ${words(from)}. Go to where it ends and press W.`;
      } else {
        const start = from;
        from = null;
        if (start !== chosen) walk(start, chosen);
      }
    } else if (event.key === "+" || event.key === "=") view.zoom(1.5);
    else if (event.key === "-") view.zoom(1 / 1.5);
    else if (event.key === "0") view.reset();
    else if (event.key === "Escape") [from, cursor] = [null, null];
    else return;
    event.preventDefault();
    draw();
  });
  new ResizeObserver(draw).observe(canvas);

  colour();
  draw();
  model.sheet().then((loaded) => { sheet = loaded; }, () => {});
  return mark;
}

const colourOf = (label) => COLOURS[((label % COLOURS.length) + COLOURS.length) % COLOURS.length];

function dot(colour) {
  const element = h("i");
  element.style.background = colour;
  return element;
}

/** The part of the plane that is on the canvas, and what lies where. */
class View {
  constructor(points) {
    this.points = points;
    const range = (axis) => points.reduce(([low, high], point) => [Math.min(low, point[axis]), Math.max(high, point[axis])], [Infinity, -Infinity]);
    [this.x, this.y] = [range(0), range(1)];
    this.width = this.height = 1;
    this.reset();
  }

  reset() {
    this.magnified = 1;
    this.middle = [(this.x[0] + this.x[1]) / 2, (this.y[0] + this.y[1]) / 2];
  }

  fit(width, height) {
    [this.width, this.height] = [width, height];
  }

  get unit() {
    return this.magnified * Math.min(0.94 * this.width / (this.x[1] - this.x[0] || 1), 0.94 * this.height / (this.y[1] - this.y[0] || 1));
  }

  at([x, y]) {
    return [this.width / 2 + (x - this.middle[0]) * this.unit, this.height / 2 - (y - this.middle[1]) * this.unit];
  }

  pan(x, y) {
    this.middle = [this.middle[0] - x / this.unit, this.middle[1] + y / this.unit];
  }

  /** About a place on the canvas, which stays where it is. */
  zoom(factor, [x, y] = [this.width / 2, this.height / 2]) {
    const before = this.unit;
    this.magnified = Math.min(200, Math.max(0.5, this.magnified * factor));
    const shift = 1 / before - 1 / this.unit;
    this.middle = [this.middle[0] + (x - this.width / 2) * shift, this.middle[1] - (y - this.height / 2) * shift];
  }

  /** Bring a point into sight. */
  show(point) {
    const [x, y] = this.at(point);
    if (x < 0 || y < 0 || x > this.width || y > this.height) this.middle = [...point];
  }

  nearest([x, y], within) {
    let [best, found] = [within * within, null];
    this.points.forEach((point, i) => {
      const [a, b] = this.at(point);
      const distance = (a - x) ** 2 + (b - y) ** 2;
      if (distance < best) [best, found] = [distance, i];
    });
    return found;
  }

  /** The nearest point in a direction, sideways steps counting double. */
  towards(start, [right, down]) {
    const [x, y] = this.at(this.points[start]);
    let [best, found] = [Infinity, null];
    this.points.forEach((point, i) => {
      const [a, b] = this.at(point);
      const along = (a - x) * right + (b - y) * down;
      const across = Math.abs((a - x) * down) + Math.abs((b - y) * right);
      if (i !== start && along > 0.5 && across <= along && along + 2 * across < best) [best, found] = [along + 2 * across, i];
    });
    return found;
  }
}
