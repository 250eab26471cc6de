// Painting of the service's arrays and images on canvases, and downloads.

// Five stops of a colour map with even steps in lightness, distinct for the colour-blind.
const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
export const RAMP = `linear-gradient(90deg, ${STOPS.map((stop) => `rgb(${stop})`).join(", ")})`;

/** The colour [red, green, blue] of a share from 0 to 1. */
export function ramp(share) {
  const position = Math.min(0.9999, Math.max(0, share)) * (STOPS.length - 1);
  const low = Math.floor(position);
  return STOPS[low].map((edge, i) => Math.round(edge + (position - low) * (STOPS[low + 1][i] - edge)));
}

/** Paint height x width (x 3) values from 0 to 1; the canvas gets that size in pixels. */
export function paint(canvas, image) {
  fill(canvas, image[0].length, image.length, (row, column) => {
    const value = image[row][column];
    return Array.isArray(value) ? value.map((part) => 255 * part) : [255 * value, 255 * value, 255 * value];
  });
}

/** Paint height x width (x 3) numbers as colours from the least to the greatest; returns these two. */
export function paintHeatmap(canvas, values) {
  const total = (value) => (Array.isArray(value) ? value.reduce((a, b) => a + b) : value);
  const flat = values.map((row) => row.map(total));
  let [low, high] = [Infinity, -Infinity]; // by a loop: an image may have more pixels than a call may have arguments
  for (const row of flat) {
    for (const value of row) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  fill(canvas, flat[0].length, flat.length, (row, column) => ramp((flat[row][column] - low) / (high - low || 1)));
  return [low, high];
}

function fill(canvas, width, height, colour) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let row = 0, at = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1, at += 4) {
      const [red, green, blue] = colour(row, column);
      image.data[at] = Math.round(red);
      image.data[at + 1] = Math.round(green);
      image.data[at + 2] = Math.round(blue);
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

/** Paint a response that is a PNG; the canvas gets its size. */
export async function paintPng(canvas, response) {
  const bitmap = await createImageBitmap(await response.blob());
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

/** Download a blob as a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
