// The first page: how far the work is, and where to go on.

import { showMeter } from "./board.js";
import { commandOf } from "./keys.js";
import { pageAddress } from "./lookup.js";
import { Session } from "./session.js";

export class Overview {
  constructor(settings) {
    this.settings = settings;
    this.session = new Session(settings, () => this.refresh());
  }

  async start() {
    this.refresh();
    this.#listen();
    await this.session.followHash(() => false);
  }

  refresh() {
    for (const [type, cells] of Object.entries(this.settings.cells)) {
      const counts = this.session.store.counts(type);
      const labelled = counts.positive + counts.negative + counts.unsure;
      this.#show(type, { ...counts, left: Math.max(0, cells - labelled) });
    }
    this.#showResume();
    this.#showProgress();
    this.session.showState();
  }

  #show(type, counts) {
    for (const [name, count] of Object.entries(counts)) {
      document.querySelector(`[data-totals=${type}] .${name} dd`).textContent = count.toLocaleString("en");
    }
    showMeter(document.querySelector(`[data-meter=${type}]`), counts);
  }

  #showResume() {
    const [site, type, page] = this.session.store.json("last") ?? [];
    if (site !== this.settings.site_id || !(page <= this.settings.pages[type])) return;
    const resume = document.getElementById("resume");
    resume.hidden = false;
    resume.querySelector("a").href = pageAddress("", type, page);
    resume.querySelector("span").textContent = `Go on with ${type.toUpperCase()}, page ${page}`;
  }

  #showProgress() {
    for (const link of document.querySelectorAll(".pages a")) {
      const page = `${link.closest("section").dataset.cellType}/${link.textContent}`;
      const percent = Number(this.session.store.setting(`progress/${this.settings.site_id}/${page}`));
      link.classList.toggle("begun", percent > 0);
      link.classList.toggle("done", percent === 100);
      link.style.setProperty("--done", `${percent}%`);
      link.title = percent ? `${percent} % labelled` : "";
    }
  }

  #listen() {
    const { session } = this;
    const commands = {
      export: () => session.export(),
      import: () => session.import(),
      annotator: () => session.name(),
      help: () => session.help(),
    };
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-action]");
      if (button && !button.closest("dialog")) commands[button.dataset.action]?.();
    });
    document.addEventListener("keydown", (event) => {
      if (commandOf(event) === "help" && !document.querySelector("dialog[open]")) session.help();
    });
    addEventListener("hashchange", () => session.followHash(() => false));
    addEventListener("storage", (event) => session.store.changed(event) && this.refresh());
    addEventListener("pageshow", (event) => event.persisted && this.refresh());
  }
}
