// A stand-in for localStorage that can be full.

export class FakeStorage {
  constructor(entries = {}, room = Infinity) {
    this.map = new Map(Object.entries(entries));
    this.room = room;
  }
  get length() {
    return this.map.size;
  }
  key(i) {
    if (this.keys?.length !== this.map.size) this.keys = [...this.map.keys()];
    return this.keys[i] ?? null;
  }
  getItem(key) {
    return this.map.get(key) ?? null;
  }
  setItem(key, value) {
    const isFull = this.room < Infinity && this.#usedWithout(key) + key.length + value.length > this.room;
    if (isFull) throw new Error("QuotaExceededError");
    this.keys = null;
    this.map.set(key, value);
  }
  #usedWithout(key) {
    return [...this.map].reduce((sum, [k, v]) => sum + (k === key ? 0 : k.length + v.length), 0);
  }
  removeItem(key) {
    this.keys = null;
    this.map.delete(key);
  }
}

/** Numbers that look random and are the same in every run. */
export function randomNumbers(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
