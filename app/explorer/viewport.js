// The visible part of the latent map, and which points lie where on it.

const FILL = 0.94; // share of the canvas that all points together take
const [MIN_ZOOM, MAX_ZOOM] = [0.5, 200];

export class Viewport {
  constructor(points) {
    this.points = points;
    [this.x, this.y] = [range(points, 0), range(points, 1)];
    this.width = this.height = 1;
    this.reset();
  }

  reset() {
    this.magnification = 1;
    this.centre = [(this.x[0] + this.x[1]) / 2, (this.y[0] + this.y[1]) / 2];
  }

  resize(width, height) {
    [this.width, this.height] = [width, height];
  }

  /** Pixels per unit of the plane. */
  get unit() {
    const [across, down] = [this.x[1] - this.x[0] || 1, this.y[1] - this.y[0] || 1];
    return this.magnification * FILL * Math.min(this.width / across, this.height / down);
  }

  /** Canvas position of a point of the plane. */
  project([x, y]) {
    const { unit, centre } = this;
    return [this.width / 2 + (x - centre[0]) * unit, this.height / 2 - (y - centre[1]) * unit];
  }

  pan(x, y) {
    this.centre = [this.centre[0] - x / this.unit, this.centre[1] + y / this.unit];
  }

  /** Zoom about a canvas position, which stays where it is. */
  zoom(factor, [x, y] = [this.width / 2, this.height / 2]) {
    const before = this.unit;
    this.magnification = Math.min(MAX_ZOOM, Math.max(MIN_ZOOM, this.magnification * factor));
    const shift = 1 / before - 1 / this.unit;
    this.centre = [
      this.centre[0] + (x - this.width / 2) * shift,
      this.centre[1] - (y - this.height / 2) * shift,
    ];
  }

  /** Centre on a point if it is outside the canvas. */
  reveal(point) {
    const [x, y] = this.project(point);
    if (x < 0 || y < 0 || x > this.width || y > this.height) this.centre = [...point];
  }

  /** Index of the nearest point within a distance in pixels; null if there is none. */
  nearest([x, y], within) {
    let [best, nearest] = [within * within, null];
    this.points.forEach((point, i) => {
      const [a, b] = this.project(point);
      const distance = (a - x) ** 2 + (b - y) ** 2;
      if (distance < best) [best, nearest] = [distance, i];
    });
    return nearest;
  }

  /** Index of the nearest point in a direction; sideways distance counts double. */
  neighbour(start, [right, down]) {
    const [x, y] = this.project(this.points[start]);
    let [best, nearest] = [Infinity, null];
    this.points.forEach((point, i) => {
      const [a, b] = this.project(point);
      const along = (a - x) * right + (b - y) * down;
      const across = Math.abs((a - x) * down) + Math.abs((b - y) * right);
      const cost = along + 2 * across;
      if (i !== start && along > 0.5 && across <= along && cost < best) [best, nearest] = [cost, i];
    });
    return nearest;
  }
}

function range(points, axis) {
  let [low, high] = [Infinity, -Infinity];
  for (const point of points) [low, high] = [Math.min(low, point[axis]), Math.max(high, point[axis])];
  return [low, high];
}
