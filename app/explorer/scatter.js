// Painting of the latent map: points, rings around some of them, a marker and a path.

const MARGIN = 9; // pixels outside the canvas within which a point is still painted

/**
 * Paint the map. `rings` are pairs of a point's index (or null) and a line width, `marker` is a position on the plane,
 * `path` a pair of a point's index and a canvas position; marker and path may be null.
 */
export function paintScatter(canvas, viewport, { points, colours, rings, marker, path }) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width) return;
  const context = prepare(canvas, width, height);
  viewport.resize(width, height);
  const radius = Math.min(7, 2.4 * (2000 / points.length) ** 0.25 * Math.sqrt(viewport.magnification));
  const { color: ink, backgroundColor: ground } = getComputedStyle(canvas);
  paintPoints(context, viewport, points, colours, radius);
  context.strokeStyle = ink;
  for (const [index, line] of rings) {
    if (index !== null) paintRing(context, viewport.project(points[index]), radius + 4, line);
  }
  if (marker) paintCross(context, inside(viewport.project(marker), width, height), ink, ground);
  if (path) paintPath(context, viewport.project(points[path[0]]), path[1]);
}

/** Match the canvas to the pixels of the screen and clear it. */
function prepare(canvas, width, height) {
  const density = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * density), Math.round(height * density)];
  if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function paintPoints(context, viewport, points, colours, radius) {
  context.globalAlpha = 0.85;
  points.forEach((point, i) => {
    const [x, y] = viewport.project(point);
    if (x < -MARGIN || y < -MARGIN || x > viewport.width + MARGIN || y > viewport.height + MARGIN) return;
    context.fillStyle = colours[i];
    context.beginPath();
    context.arc(x, y, radius, 0, 7);
    context.fill();
  });
  context.globalAlpha = 1;
}

function paintRing(context, [x, y], radius, line) {
  context.lineWidth = line;
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.stroke();
}

/** A position moved to the edge of the canvas if it lies outside. */
function inside([x, y], width, height) {
  return [Math.min(width - 10, Math.max(10, x)), Math.min(height - 10, Math.max(10, y))];
}

function paintCross(context, [x, y], ink, ground) {
  for (const [colour, line] of [[ground, 7], [ink, 3]]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.beginPath();
    for (const slope of [1, -1]) {
      context.moveTo(x - 8, y - 8 * slope);
      context.lineTo(x + 8, y + 8 * slope);
    }
    context.stroke();
  }
}

function paintPath(context, start, end) {
  context.setLineDash([5, 4]);
  context.beginPath();
  context.moveTo(...start);
  context.lineTo(...end);
  context.stroke();
  context.setLineDash([]);
}
