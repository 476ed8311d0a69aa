// Starts a page: the only module that does anything when it is loaded.

import { CardsPage } from "./cards.js";
import { Overview } from "./overview.js";

const settings = JSON.parse(document.getElementById("settings").textContent);
const page = settings.kind === "index" ? new Overview(settings) : new CardsPage(settings);
await page.start();
document.documentElement.dataset.ready = "";
