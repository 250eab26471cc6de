// The page: loads what is served, and builds its rooms, those that nobody looks at yet when somebody does.

import { alertOf, h } from "./dom.js";
import { Model } from "./model.js";
import { glass } from "./glass.js";
import { map } from "./map.js";
import { sliders } from "./sliders.js";
import { samples } from "./samples.js";
import { card } from "./card.js";

const byId = (id) => document.getElementById(id);

async function start() {
  const model = await Model.load();
  document.title = `${model.card.name} – vae-server`;
  byId("title").textContent = model.card.name;
  byId("lead").textContent = model.sentence;

  let take = null; // sets the sliders, once they are there
  let mark = () => {}; // marks on the map what is under the glass: an index, or a mean of Q and a name
  let lying = null;
  const under = glass(byId("glass"), model, {
    take: (latent) => {
      show("sliders");
      take(latent);
    },
    put: (...what) => {
      lying = what;
      mark(...what);
    },
  });
  /** Put something under the glass, and on a narrow screen bring the glass into sight. */
  const open = async (source) => {
    const shown = under(typeof source === "number" ? { index: source } : source);
    if (window.matchMedia("(max-width: 67.9rem)").matches) byId("glass").scrollIntoView({ behavior: "smooth" });
    await shown;
  };

  const rooms = {
    map: { build: (room) => { mark = map(room, model, open); if (lying) mark(...lying); } },
    sliders: { build: (room) => { take = sliders(room, model); } },
    samples: { build: (room) => samples(room, model, open)() },
    card: { build: (room) => card(room, model) },
  };
  const tabs = [...document.querySelectorAll("[role=tab]")];
  function show(name) {
    for (const tab of tabs) {
      const chosen = tab.getAttribute("aria-controls") === name;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = !chosen;
    }
    const room = rooms[name];
    if (!room.built) {
      room.built = true;
      room.seen = room.build(byId(name));
    }
    if (typeof room.seen === "function") room.seen();
    history.replaceState(null, "", `#${name}`);
  }
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => show(tab.getAttribute("aria-controls")));
    tab.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(i + step + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
  });
  const wished = location.hash.slice(1);
  show(rooms[wished] ? wished : "map");
  if (model.gallery) await under({ index: 0 });
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  byId("lead").textContent = "The model's card could not be loaded.";
  byId("lead").append(" ", h("button", { onclick: () => location.reload() }, "Try again"));
  alertOf(error);
});
