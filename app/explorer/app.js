// The page: load the model, then build the inspector and the tabs, each tab when it is first shown.

import { card } from "./card.js";
import { h, showAlert } from "./dom.js";
import { inspector } from "./inspector.js";
import { map } from "./map.js";
import { Model } from "./model.js";
import { samples } from "./samples.js";
import { sliders } from "./sliders.js";

const NARROW = "(max-width: 67.9rem)"; // the inspector is below the tabs
const byId = (id) => document.getElementById(id);

async function start() {
  const model = await Model.load();
  document.title = `${model.card.name} – vae-server`;
  byId("title").textContent = model.card.name;
  byId("lead").textContent = model.description;

  let current = null; // the inspected input: index or null, mean of Q, name
  let mark = () => {}; // marks it on the map, once the map is built
  let setLatent = null; // sets the sliders, once they are built
  const inspect = inspector(byId("inspector"), model, {
    onApply: (latent) => {
      show("sliders");
      setLatent(latent);
    },
    onShow: (...input) => {
      current = input;
      mark(...input);
    },
  });
  /** Inspect an input, and on a narrow screen scroll to the inspector. */
  const open = async (source) => {
    const inspected = inspect(typeof source === "number" ? { index: source } : source);
    if (window.matchMedia(NARROW).matches) byId("inspector").scrollIntoView({ behavior: "smooth" });
    await inspected;
  };

  const show = tabs({
    map: (tab) => {
      mark = map(tab, model, open);
      if (current) mark(...current);
    },
    sliders: (tab) => { setLatent = sliders(tab, model); },
    samples: (tab) => { samples(tab, model, open)(); },
    card: (tab) => card(tab, model),
  });
  const requested = location.hash.slice(1);
  show(byId(`tab-${requested}`) ? requested : "map");
  if (model.gallery) await inspect({ index: 0 });
  document.body.dataset.ready = "true";
}

/**
 * Connect the tabs. `builders` build the content of each when it is first shown, and may return a function to call
 * each time it is shown. Returns a function that shows a tab by name.
 */
function tabs(builders) {
  const buttons = [...document.querySelectorAll("[role=tab]")];
  const nameOf = (button) => button.getAttribute("aria-controls");
  const onShow = {};
  function show(name) {
    for (const button of buttons) {
      const selected = nameOf(button) === name;
      button.setAttribute("aria-selected", String(selected));
      button.tabIndex = selected ? 0 : -1;
      byId(nameOf(button)).hidden = !selected;
    }
    if (!(name in onShow)) onShow[name] = builders[name](byId(name));
    onShow[name]?.();
    history.replaceState(null, "", `#${name}`);
  }
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => show(nameOf(button)));
    button.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = buttons[(i + step + buttons.length) % buttons.length];
      next.focus();
      next.click();
    });
  });
  return show;
}

start().catch((error) => {
  byId("lead").textContent = "The model could not be loaded.";
  byId("lead").append(" ", h("button", { onclick: () => location.reload() }, "Try again"));
  showAlert(error);
});
