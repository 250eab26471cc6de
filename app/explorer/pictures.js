// Arrays as the service writes them <-> pixels.

// Five stops of a map of colours that is even in lightness and told apart by the colour-blind.
const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
export const RAMP = `linear-gradient(90deg, ${STOPS.map((stop) => `rgb(${stop})`).join(", ")})`;

/** 0..1 -> [red, green, blue]. */
export function ramp(share) {
  const place = Math.min(0.9999, Math.max(0, share)) * (STOPS.length - 1);
  const low = Math.floor(place);
  return STOPS[low].map((edge, i) => Math.round(edge + (place - low) * (STOPS[low + 1][i] - edge)));
}

/** A picture of height x width (x 3) values from 0 to 1, on a canvas of as many pixels. */
export function paint(canvas, picture) {
  fill(canvas, picture[0].length, picture.length, (row, column) => {
    const value = picture[row][column];
    return Array.isArray(value) ? value.map((part) => 255 * part) : [255 * value, 255 * value, 255 * value];
  });
}

/** The same shape of any numbers, as colours from the least to the most; returns those two. */
export function paintMap(canvas, values) {
  const flat = values.map((row) => row.map((value) => (Array.isArray(value) ? value.reduce((a, b) => a + b) : value)));
  let [low, high] = [Infinity, -Infinity]; // by a loop: a picture has more pixels than a call may have arguments
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

/** An answer that is a PNG, on a canvas of its size. */
export async function paintPng(canvas, answer) {
  const bitmap = await createImageBitmap(await answer.blob());
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

/** Hand something to the person as a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
