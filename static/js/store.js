// The one module that touches localStorage. Every key begins with `mkhspc/1/<dataset>/`.
//
// A label just given is a key of its own, `new/<cell id>`: one synchronous write, which no other tab
// ever reads and rewrites, so two tabs cannot lose each other's labels. Later, under a lock that only
// one tab holds, such labels are settled: packed into the text of their square (`set/<square>`, two
// characters a label; see packing.js), and only then are their own keys removed. A label's own key
// always counts before its square. Measured in Chromium, characters a label: 66 when just given; settled 2.6 with
// 110,000 labels and 2.06 with 1.1 million, which is 4.5 MB of the 5 MiB that browsers give an origin at least.

import { STATES, UNLABELLED, cellType } from "./cells.js";
import { cellAt, countPacked, locate, pack, squareType, unpack } from "./packing.js";

export const SETTLE_AFTER_MS = 60_000;

const CODES = { positive: "p", negative: "n", unsure: "u", [UNLABELLED]: "-" };
const STATE_OF = Object.fromEntries(Object.entries(CODES).map(([state, code]) => [code, state]));

export class LabelStore {
  /**
   * @param {Storage} storage - `localStorage`, or anything like it.
   * @param {string} dataset - names the run; labels of another run are never seen or touched.
   * @param {() => number} now - milliseconds since 1970.
   */
  constructor(storage, dataset, now = Date.now) {
    this.prefix = `mkhspc/1/${dataset}/`;
    this.unsaved = new Map();
    this.storage = storage;
    this.now = now;
    this.damaged = new Set();
    this.squares = new Map();
    this.mine = new Map();
  }

  /** The state of a cell. */
  get(id) {
    const unsaved = this.unsaved.get(id);
    if (unsaved) return unsaved;
    const fresh = this.#read(`new/${id}`);
    return fresh === null ? this.#settled(id) : stateOf(fresh);
  }

  /**
   * Keeps the state of a cell. Returns true if it is stored; if the browser refuses (storage full or
   * forbidden), it is held in `unsaved`, counts like any other label, and is tried again next time.
   */
  set(id, state) {
    const value = CODES[state] + this.now().toString(36);
    if (!this.write(`new/${id}`, value)) {
      this.unsaved.set(id, state);
      return false;
    }
    this.unsaved.delete(id);
    this.mine.set(id, value);
    if (this.unsaved.size) this.#retry();
    return true;
  }

  /** All labels: a Map of cell id to "positive", "negative" or "unsure". */
  all() {
    const labels = new Map();
    const fresh = [];
    for (const key of this.#keys()) {
      if (key.startsWith("new/")) fresh.push(key.slice(4));
      if (!key.startsWith("set/")) continue;
      const square = key.slice(4);
      for (const [place, state] of this.#square(square)) labels.set(cellAt(square, place), state);
    }
    for (const id of [...fresh, ...this.unsaved.keys()]) {
      const state = this.get(id);
      if (state === UNLABELLED) labels.delete(id);
      else labels.set(id, state);
    }
    // what somebody else wrote below our prefix must not keep the rest from being exported
    for (const id of labels.keys()) if (cellType(id) === null) labels.delete(id);
    return labels;
  }

  /** How many cells of a type have each state, without making a list of them. */
  counts(type) {
    const counts = Object.fromEntries([...STATES, UNLABELLED].map((state) => [state, 0]));
    const given = new Set(this.unsaved.keys());
    for (const key of this.#keys()) {
      if (key.startsWith("new/")) given.add(key.slice(4));
      if (!key.startsWith("set/") || squareType(key.slice(4)) !== type) continue;
      for (const [state, count] of Object.entries(countPacked(this.#read(key)))) counts[state] += count;
    }
    for (const id of given) {
      if (cellType(id) !== type) continue;
      counts[this.#settled(id)] -= 1;
      counts[this.get(id)] += 1;
    }
    return Object.fromEntries(STATES.map((state) => [state, counts[state]]));
  }

  /**
   * What another tab's change to the storage concerns: a cell id, "all", or null.
   *
   * @param {{key: ?string, newValue: ?string}} event - a `storage` event.
   */
  changed({ key, newValue }) {
    if (key === null) return "all";
    if (!key.startsWith(`${this.prefix}new/`)) return null;
    const id = key.slice(this.prefix.length + 4);
    if (newValue !== null) this.mine.delete(id);
    const mine = this.mine.get(id);
    if (mine && this.#read(`new/${id}`) === null && this.#settled(id) !== stateOf(mine)) {
      // that tab settled an older label of this cell in the very moment in which this one was given
      this.write(`new/${id}`, mine);
    }
    return id;
  }

  /**
   * Packs labels older than `olderThanMs` into their squares. To be called by one tab at a time.
   * Returns how many were settled. Whatever goes wrong, a label's own key is removed only once its square holds it.
   */
  settle(olderThanMs = SETTLE_AFTER_MS) {
    const before = this.now() - olderThanMs;
    const due = new Map();
    for (const key of this.#keys()) {
      const value = key.startsWith("new/") ? this.#read(key) : null;
      const at = value === null ? null : locate(key.slice(4));
      if (!at || !(parseInt(value.slice(1), 36) <= before)) continue;
      if (!due.has(at.square)) due.set(at.square, []);
      due.get(at.square).push({ key, value, place: at.place });
    }
    let settled = 0;
    for (const [square, labels] of due) settled += this.#settleSquare(square, labels);
    return settled;
  }

  /** A setting of this dataset, or null. */
  setting(name) {
    return this.#read(name);
  }

  /** A setting that was written as JSON, or null. */
  json(name) {
    try {
      return JSON.parse(this.#read(name));
    } catch {
      return null;
    }
  }

  /** Keeps a text under the dataset's prefix; false if the browser refuses. */
  write(name, text) {
    try {
      this.storage.setItem(this.prefix + name, text);
      return true;
    } catch {
      return false;
    }
  }

  /** Characters that this dataset takes of the browser's storage. */
  size() {
    let characters = 0;
    for (const key of this.#keys()) characters += this.prefix.length + key.length + this.#read(key).length;
    return characters;
  }

  #retry() {
    for (const [id, state] of this.unsaved) {
      if (!this.write(`new/${id}`, CODES[state] + this.now().toString(36))) return;
      this.unsaved.delete(id);
    }
  }

  #settleSquare(square, labels) {
    const all = new Map(this.#square(square));
    if (this.damaged.has(square)) return 0;
    for (const { value, place } of labels) {
      if (stateOf(value) === UNLABELLED) all.delete(place);
      else all.set(place, stateOf(value));
    }
    const text = pack(all);
    if (!this.write(`set/${square}`, text) || this.#read(`set/${square}`) !== text) return 0;
    for (const { key, value } of labels) {
      if (this.#read(key) === value) this.storage.removeItem(this.prefix + key);
    }
    return labels.length;
  }

  #settled(id) {
    const at = locate(id);
    return (at && this.#square(at.square).get(at.place)) || UNLABELLED;
  }

  #square(square) {
    const text = this.#read(`set/${square}`) ?? "";
    const known = this.squares.get(square);
    if (known && known.text === text) return known.labels;
    const labels = this.#unpack(square, text);
    this.squares.set(square, { text, labels });
    return labels;
  }

  #unpack(square, text) {
    try {
      return unpack(text);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.damaged.add(square); // never written again, so that it can still be repaired by hand
      return new Map();
    }
  }

  #read(name) {
    try {
      return this.storage.getItem(this.prefix + name);
    } catch {
      return null;
    }
  }

  #keys() {
    const keys = [];
    try {
      for (let i = 0; i < this.storage.length; i++) {
        const key = this.storage.key(i);
        if (key.startsWith(this.prefix)) keys.push(key.slice(this.prefix.length));
      }
    } catch {
      return [];
    }
    return keys;
  }
}

function stateOf(value) {
  return STATE_OF[value[0]] ?? UNLABELLED;
}

/** The browser's storage, or a stand-in that refuses every write where the browser forbids it. */
export function browserStorage() {
  try {
    return window.localStorage;
  } catch {
    const refuse = () => {
      throw new Error("this browser forbids storage");
    };
    return { length: 0, key: () => null, getItem: () => null, setItem: refuse, removeItem: refuse };
  }
}
