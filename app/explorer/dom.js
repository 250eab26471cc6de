// Elements, alerts and number formats.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Attributes that begin with "on" are listeners; false, null and undefined are left out. */
export const h = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);

/** An SVG element. */
export const s = (tag, attributes = {}, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

const absent = (value) => value === null || value === undefined;

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && !absent(value)) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => !absent(child)));
  return element;
}

/** Show an error, to screen readers too, until it is dismissed or the action of this name succeeds. */
export function showAlert(error, action = "page") {
  removeAlerts(action);
  const box = h("div", { class: "alert", "data-action": action }, h("span", {}, error.message));
  box.append(h("button", { onclick: () => box.remove() }, "Dismiss"));
  document.getElementById("alerts").append(box);
}

function removeAlerts(action) {
  document.querySelectorAll(`#alerts [data-action="${action}"]`).forEach((box) => box.remove());
}

/** Run an action of the user. Success removes earlier alerts of this name; an error shows one. */
export async function attempt(name, action) {
  try {
    const result = await action();
    removeAlerts(name);
    return result;
  } catch (error) {
    if (error.name !== "AbortError") showAlert(error, name);
    return undefined;
  }
}

const fourDigits = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

/** A number as text: four significant digits, all integer digits, or (with `digits`) that many decimals. */
export function number(value, digits = null) {
  if (absent(value) || !Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 1e7) return value.toExponential(3);
  if (digits !== null) {
    return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  }
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : fourDigits.format(value);
}

/** A question with a folded answer. */
export const explain = (question, ...answer) => h("details", {}, h("summary", {}, question),
  ...answer.filter(Boolean).map((part) => (typeof part === "string" ? h("p", {}, part) : part)));

export const formula = (text) => h("p", { class: "formula" }, text);

/** A list of named facts, without those that are unknown. */
export function facts(pairs) {
  const present = pairs.filter(([, value]) => !absent(value));
  return h("dl", { class: "facts" },
    ...present.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** Copy text to the clipboard and confirm it on the button. */
export async function copy(text, button) {
  await navigator.clipboard.writeText(text);
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1200);
}
