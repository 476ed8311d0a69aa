// What every page of a gallery shares: whose labels they are, taking them out as a file and bringing them in.

import { browserStorage, LabelStore } from "./store.js";
import { EventLog } from "./events.js";
import {
  ANONYMOUS, compare, exported, fileName, ImportError, keptName, newEvents, readExported, signed,
} from "./exchange.js";
import { cellInHash, pagesOf } from "./lookup.js";
import { askConflicts, askName, notify, openDialog, warn } from "./messages.js";
import { parseCellId } from "./cells.js";

const SETTLE_EVERY_MS = 120_000;
const URGE_FROM = 200;
const IMPORT_AT_ONCE = 5000;

export class Session {
  /**
   * @param {object} settings - of the page, as written into it.
   * @param {() => void} refresh - called when labels may have changed behind the page's back.
   */
  constructor(settings, refresh) {
    this.settings = settings;
    this.refresh = refresh;
    this.store = new LabelStore(browserStorage(), settings.dataset);
    const logFailed = (error) => this.#logFailed(error);
    this.log = new EventLog(settings.dataset, globalThis.indexedDB, logFailed, (isNew) => this.#browserId(isNew));
    this.isPersistAsked = false;
    this.fileField = document.getElementById("import-file");
    this.fileField.addEventListener("change", () => this.#importChosen());
    this.#showAnnotator();
    this.showState();
    this.#settleNowAndThen();
  }

  get annotator() {
    return this.store.setting("annotator") || ANONYMOUS;
  }

  /** The id of this browser, made at random; another one for a new log, whose numbers begin anew. */
  #browserId(isNew) {
    const known = isNew ? null : (this.store.setting("browser") ?? this.browser ?? null);
    this.browser = known ?? [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(36)).join("");
    if (known === null) this.store.write("browser", this.browser);
    return this.browser;
  }

  /** Keeps a label, and says so where the browser cannot. */
  keep(id, state) {
    this.store.set(id, state);
    this.#warn();
    this.#askToPersist();
  }

  /** Counts labels given since the last export. */
  countUnexported(labels) {
    this.store.write("unexported", String(Number(this.store.setting("unexported")) + labels));
    this.showState();
  }

  /** Shows how much is not exported yet, and what is wrong with the browser's storage. */
  showState() {
    this.#warn();
    const count = Number(this.store.setting("unexported"));
    const badge = document.querySelector("[data-unexported]");
    badge.hidden = !count;
    badge.textContent = count;
    badge.title = `${count} labels since the last export`;
    badge.parentElement.classList.toggle("urgent", count >= URGE_FROM);
  }

  /** Downloads all labels of the dataset as one file. */
  async export() {
    const labels = this.store.all();
    const events = await this.log.all();
    const file = exported(this.settings, this.annotator, labels, events, new Date());
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file)], { type: "application/json" }));
    link.download = fileName(this.settings.dataset, this.annotator);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    this.store.write("unexported", "0");
    this.showState();
    notify(`Exported ${labels.size} labels as ${link.download}`);
  }

  /** Lets the annotator choose a file; its labels are brought in when it is chosen. */
  import() {
    this.fileField.click();
  }

  async #importChosen() {
    const [file] = this.fileField.files;
    if (file) await this.#importContent(await file.arrayBuffer());
    this.fileField.value = "";
  }

  async #importContent(content) {
    try {
      const file = readExported(content, this.settings.dataset, this.settings.config_hash);
      const { added, same, conflicts } = compare(file.labels, (id) => this.store.get(id));
      const facts =
        `${conflicts.length} cells have another label in the file of ${file.annotator}. ` +
        `It also brings ${added.length} new labels; ${same} are the same.`;
      const taken = conflicts.length ? await askConflicts(conflicts, facts, likenessOf) : new Map();
      if (taken) await this.#bringIn(file, [...added.map(({ id, label }) => [id, label]), ...taken]);
    } catch (error) {
      if (!(error instanceof ImportError)) throw error;
      notify(error.message);
    }
  }

  async #bringIn(file, labels) {
    for (let start = 0; start < labels.length; start += IMPORT_AT_ONCE) {
      for (const [id, label] of labels.slice(start, start + IMPORT_AT_ONCE)) this.keep(id, label);
      // packed along the way: a file can hold more than the browser has room for otherwise
      if (labels.length > IMPORT_AT_ONCE) await this.#settle(0);
    }
    this.log.bring(newEvents(signed(file.events, file.annotator), await this.log.all()));
    const isNamed = this.annotator === ANONYMOUS && file.annotator !== ANONYMOUS;
    if (isNamed) this.#setAnnotator(file.annotator);
    this.countUnexported(labels.length);
    this.refresh();
    notify(`Imported ${labels.length} labels of ${file.annotator}${isNamed ? "; you go on under this name" : ""}.`);
  }

  /** Asks for the annotator's name. */
  async name() {
    const name = await askName(this.annotator === ANONYMOUS ? "" : this.annotator);
    if (name !== null) this.#setAnnotator(name);
  }

  help() {
    const kilobytes = Math.ceil((2 * this.store.size()) / 1000);
    const dialog = openDialog("help");
    dialog.querySelector("#storage-facts").textContent = `This dataset takes ${kilobytes} kB of this browser's storage.`;
  }

  /**
   * Goes to the cell that the address asks for, if it asks for one.
   *
   * @param {(id: string) => boolean} goHere - goes to a cell of this page; false if it is not on it.
   */
  async followHash(goHere) {
    const id = cellInHash(location.hash);
    if (id === null || goHere(id)) return;
    try {
      const pages = await pagesOf(id, this.settings, getJson);
      const addresses = pages.map((page) => new URL(page, location.href));
      const others = addresses.filter(({ pathname }) => pathname !== location.pathname);
      if (others.length) location.assign(`${others[0].href}#cell=${encodeURIComponent(id)}`);
      else notify("This gallery does not show that cell.");
    } catch (error) {
      notify(`The page of that cell could not be looked up (${error.message}).`);
    }
  }

  #warn() {
    const { unsaved, damaged } = this.store;
    const warnings = [];
    if (unsaved.size) {
      warnings.push(
        `The browser's storage is full or forbidden: ${unsaved.size} labels are held by this tab alone. ` +
          "Export now, before you close it.",
      );
    }
    if (damaged.size) {
      warnings.push(
        "A part of the labels kept in this browser is damaged and cannot be read. It is left as it is: " +
          "import your last exported file, and tell the person who made this gallery.",
      );
    }
    window.onbeforeunload = unsaved.size ? (event) => event.preventDefault() : null;
    warn(warnings.join(" "));
  }

  #setAnnotator(name) {
    this.store.write("annotator", keptName(name));
    this.#showAnnotator();
  }

  #showAnnotator() {
    for (const place of document.querySelectorAll("[data-annotator]")) place.textContent = this.annotator;
  }

  #logFailed(error) {
    notify(`Labels are safe, but the log of when they were given cannot be kept in this browser (${error.message}).`);
  }

  #askToPersist() {
    if (this.isPersistAsked) return;
    this.isPersistAsked = true;
    navigator.storage?.persist?.();
  }

  #settleNowAndThen() {
    setTimeout(() => this.#settle(), 1000);
    setInterval(() => this.#settle(), SETTLE_EVERY_MS);
  }

  /** Packs labels older than `olderThanMs`, when no other tab is at it. */
  #settle(olderThanMs) {
    return navigator.locks?.request(`${this.store.prefix}settle`, () => this.store.settle(olderThanMs));
  }
}

/** How to show a cell without telling its slide: its picture if it is on this page, else its place. */
function likenessOf(id) {
  const picture = document.querySelector(`article[data-cell-id="${CSS.escape(id)}"] > svg`);
  if (picture) return picture.cloneNode(true);
  const { type, x, y } = parseCellId(id);
  return `${type.toUpperCase()} at ${x}, ${y}`;
}

async function getJson(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
}
