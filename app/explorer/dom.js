// Elements in a line each, and what the page says when something goes wrong.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Properties beginning with "on" are listeners; others are attributes, false and null left out. */
export const h = (tag, attributes = {}, ...children) => made(document.createElement(tag), attributes, children);

/** An SVG element. */
export const s = (tag, attributes = {}, ...children) => made(document.createElementNS(SVG, tag), attributes, children);

function made(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Say what went wrong, to eyes and to screen readers; it stays until it is dismissed or the same succeeds. */
export function alertOf(error, what = "page") {
  settled(what);
  const box = h("div", { class: "alert", "data-what": what }, h("span", {}, error.message));
  box.append(h("button", { onclick: () => box.remove() }, "Dismiss"));
  document.getElementById("alerts").append(box);
}

function settled(what) {
  document.querySelectorAll(`#alerts [data-what="${what}"]`).forEach((box) => box.remove());
}

/** Run what a person asked for, with a word where it fails. `what` it is about says which alert is settled by success. */
export async function attempt(what, action) {
  try {
    const result = await action();
    settled(what);
    return result;
  } catch (error) {
    if (error.name !== "AbortError") alertOf(error, what);
    return undefined;
  }
}

const plain = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

/** A number for people: four digits, or all before the point where there are not too many. */
export const say = (value, digits = null) =>
  value === null || value === undefined || !Number.isFinite(value)
    ? "–"
    : Math.abs(value) >= 1e7 ? value.toExponential(3)
    : digits === null
      ? Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : plain.format(value)
      : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** A question that a person may have, folded away. */
export const why = (question, ...answer) => h("details", {}, h("summary", {}, question), ...answer.filter(Boolean).map((part) => (typeof part === "string" ? h("p", {}, part) : part)));

export const formula = (text) => h("p", { class: "formula" }, text);

/** Put text on the clipboard, and say so on the button that did it. */
export async function copy(text, button) {
  await navigator.clipboard.writeText(text);
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1200);
}
