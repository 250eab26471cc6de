// Pointer and keyboard controls of the latent map.

const POINTER_RADIUS = 12; // pixels from a point within which a pointer means it
const CLICK_RADIUS = 4; // pixels that a pointer may move during a click
const ZOOM_STEP = 1.5;
const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * Pointer controls. A click on a point inspects it, a drag from point to point interpolates, a drag of the ground pans,
 * two fingers and the wheel zoom.
 */
export function addPointerControls(map) {
  const pointers = new Map(); // last position of each pressed pointer
  let press = null; // the single pointer's {position, point, moved}
  const { canvas } = map;
  const position = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const nearest = (at) => map.viewport.nearest(at, POINTER_RADIUS);

  function down(event) {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    const at = position(event);
    pointers.set(event.pointerId, at);
    press = pointers.size === 1 ? { position: at, point: nearest(at), moved: false } : null;
    if (press && press.point !== null) map.start = press.point;
    map.hover(null);
  }

  function move(event) {
    const [now, before] = [position(event), pointers.get(event.pointerId)];
    if (!before) {
      map.hover(nearest(now));
      return;
    }
    if (pointers.size === 2) pinch(event.pointerId, now, before);
    else if (press) drag(now, before);
    pointers.set(event.pointerId, now);
    map.draw();
  }

  function pinch(id, now, before) {
    const [, other] = [...pointers].find(([pointer]) => pointer !== id);
    const distance = ([x, y]) => Math.hypot(x - other[0], y - other[1]);
    map.viewport.zoom(distance(now) / (distance(before) || 1), other);
    map.start = null;
  }

  function drag(now, before) {
    press.moved ||= Math.hypot(now[0] - press.position[0], now[1] - press.position[1]) > CLICK_RADIUS;
    if (press.point === null) map.viewport.pan(now[0] - before[0], now[1] - before[1]);
    else [map.cursor, map.hovered] = [now, nearest(now)];
  }

  function release(event) {
    const ended = press;
    pointers.delete(event.pointerId);
    [press, map.start, map.cursor, map.hovered] = [null, null, null, null];
    map.draw();
    if (!ended || ended.point === null || event.type === "pointercancel") return;
    const end = nearest(position(event));
    if (!ended.moved) map.inspect(ended.point);
    else if (end !== null && end !== ended.point) map.interpolate(ended.point, end);
  }

  function wheel(event) {
    event.preventDefault();
    map.viewport.zoom(Math.exp(-event.deltaY * 0.0015), position(event));
    map.hover(null);
    map.draw();
  }

  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { if (!pointers.size) map.hover(null); });
  canvas.addEventListener("wheel", wheel, { passive: false });
}

/** Keyboard controls: arrows choose a point, Enter inspects it, I starts and ends an interpolation, +, - and 0 zoom. */
export function addKeyboardControls(map) {
  const interpolate = () => {
    if (map.chosen === null) return;
    if (map.start === null) map.startInterpolation();
    else map.endInterpolation();
  };
  const actions = {
    Enter: () => { if (map.chosen !== null) map.inspect(map.chosen); },
    i: interpolate,
    w: interpolate,
    "+": () => map.viewport.zoom(ZOOM_STEP),
    "=": () => map.viewport.zoom(ZOOM_STEP),
    "-": () => map.viewport.zoom(1 / ZOOM_STEP),
    0: () => map.viewport.reset(),
    Escape: () => { [map.start, map.cursor] = [null, null]; },
  };
  for (const [key, direction] of Object.entries(DIRECTIONS)) actions[key] = () => map.choose(direction);
  map.canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // shortcuts of the browser
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    action();
    event.preventDefault();
    map.draw();
  });
}

/** Buttons for zooming. */
export const zoomIn = (map) => { map.viewport.zoom(ZOOM_STEP); map.draw(); };
export const zoomOut = (map) => { map.viewport.zoom(1 / ZOOM_STEP); map.draw(); };
export const showAll = (map) => { map.viewport.reset(); map.draw(); };
