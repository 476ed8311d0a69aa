import assert from "node:assert/strict";
import { test } from "node:test";
import { pack } from "../../static/js/packing.js";
import { LabelStore, SETTLE_AFTER_MS } from "../../static/js/store.js";
import { FakeStorage, randomNumbers } from "./helpers.js";

const LATER = 10 * SETTLE_AFTER_MS;

function cell(i) {
  return `FGC1_s0_hspc_${(i * 7919) % 90_000}_${(i * 104_729) % 60_000}`;
}

function storeAt(storage, clock = { ms: 1_700_000_000_000 }) {
  return new LabelStore(storage, "d5", () => clock.ms);
}

test("a label is there at once, for this tab and any other", () => {
  const storage = new FakeStorage();
  storeAt(storage).set(cell(1), "positive");
  assert.equal(storeAt(storage).get(cell(1)), "positive");
  assert.equal(storeAt(storage).get(cell(2)), "unlabelled");
});

test("settling changes no label", () => {
  const clock = { ms: 1_700_000_000_000 };
  const storage = new FakeStorage();
  const store = storeAt(storage, clock);
  const next = randomNumbers(3);
  const expected = new Map();
  for (let i = 0; i < 3000; i++) {
    const id = i % 50 ? cell(Math.floor(next() * 1000)) : `FGC1_s0_hspc_5_5_${2 + (i % 7)}`;
    const state = ["positive", "negative", "unsure", "unlabelled"][Math.floor(next() * 4)];
    store.set(id, state);
    if (state === "unlabelled") expected.delete(id);
    else expected.set(id, state);
    clock.ms += 1000;
    if (i % 400 === 0) store.settle();
  }
  clock.ms += LATER;
  store.settle();
  assert.deepEqual([...storeAt(storage).all()].sort(), [...expected].sort());
  for (let i = 0; i < 5; i++) store.set(cell(i), "unsure");
  const counted = { positive: 0, negative: 0, unsure: 0 };
  for (const state of store.all().values()) counted[state] += 1;
  assert.deepEqual(store.counts("hspc"), counted);
  assert.deepEqual(store.counts("mk"), { positive: 0, negative: 0, unsure: 0 });
  for (let i = 0; i < 5; i++) expected.set(cell(i), "unsure");
  for (const [id, state] of expected) assert.equal(storeAt(storage).get(id), state);
});

test("a settled label takes about two characters, whatever the slides are called", () => {
  const clock = { ms: 1_700_000_000_000 };
  const storage = new FakeStorage();
  const store = storeAt(storage, clock);
  for (let i = 0; i < 20_000; i++) storage.map.set(`mkhspc/1/d5/new/${cell(i)}`, `p${clock.ms.toString(36)}`);
  clock.ms += LATER;
  assert.equal(store.settle(), 20_000);
  assert.equal(store.all().size, 20_000);
  assert.ok(store.size() / 20_000 < 2.5, `${store.size() / 20_000}`);
});

test("labels just given are not settled yet", () => {
  const storage = new FakeStorage();
  const store = storeAt(storage);
  store.set(cell(1), "unsure");
  assert.equal(store.settle(), 0);
  assert.ok(storage.getItem(`mkhspc/1/d5/new/${cell(1)}`));
});

test("two tabs that label in turns lose nothing, also while one of them settles", () => {
  const clock = { ms: 1_700_000_000_000 };
  const storage = new FakeStorage();
  const tabs = [storeAt(storage, clock), storeAt(storage, clock)];
  for (let i = 0; i < 600; i++) {
    tabs[i % 2].set(cell(i), i % 3 ? "negative" : "positive");
    clock.ms += 500;
    if (i % 97 === 0) tabs[(i >> 3) % 2].settle();
  }
  assert.equal(tabs[0].all().size, 600);
  assert.deepEqual(tabs[0].all(), tabs[1].all());
});

test("a label given while another tab settles an older one of the same cell is put back", () => {
  const clock = { ms: 1_700_000_000_000 };
  const storage = new FakeStorage();
  const [mine, other] = [storeAt(storage, clock), storeAt(storage, clock)];
  mine.set(cell(1), "positive");
  clock.ms += LATER;
  const key = `mkhspc/1/d5/new/${cell(1)}`;
  const remove = storage.removeItem.bind(storage);
  storage.removeItem = (name) => {
    mine.set(cell(1), "negative");
    remove(name);
  };
  other.settle();
  assert.equal(mine.changed({ key, newValue: null }), cell(1));
  assert.equal(storeAt(storage, clock).get(cell(1)), "negative");
});

test("a label that another tab has changed since is not put back", () => {
  const clock = { ms: 1_700_000_000_000 };
  const storage = new FakeStorage();
  const [mine, other] = [storeAt(storage, clock), storeAt(storage, clock)];
  const key = `mkhspc/1/d5/new/${cell(1)}`;
  mine.set(cell(1), "positive");
  other.set(cell(1), "negative");
  mine.changed({ key, newValue: storage.getItem(key) });
  clock.ms += LATER;
  other.settle();
  mine.changed({ key, newValue: null });
  assert.equal(mine.get(cell(1)), "negative");
});

test("a full storage is reported, and the label is still held and tried again", () => {
  const storage = new FakeStorage({}, 200);
  const store = storeAt(storage);
  const ids = [1, 2, 3, 4, 5, 6].map(cell);
  const kept = ids.filter((id) => store.set(id, "positive"));
  assert.ok(kept.length > 0 && kept.length < ids.length);
  assert.equal(store.unsaved.size, ids.length - kept.length);
  assert.equal(store.all().size, ids.length);
  storage.room = 10_000;
  assert.equal(store.set(cell(7), "negative"), true);
  assert.equal(store.unsaved.size, 0);
  assert.equal(storeAt(storage).all().size, ids.length + 1);
});

test("a square that cannot be written keeps its labels' own keys", () => {
  const clock = { ms: 1_700_000_000_000 };
  const storage = new FakeStorage();
  const store = storeAt(storage, clock);
  store.set(cell(1), "positive");
  clock.ms += LATER;
  storage.room = 0;
  assert.equal(store.settle(), 0);
  assert.equal(storeAt(storage).get(cell(1)), "positive");
});

test("a damaged square is neither read nor overwritten", () => {
  const clock = { ms: 1_700_000_000_000 };
  const storage = new FakeStorage({ "mkhspc/1/d5/set/FGC1_s0_hspc/0.0": "not packed" });
  const store = storeAt(storage, clock);
  store.set("FGC1_s0_hspc_1_2", "positive");
  clock.ms += LATER;
  assert.equal(store.get("FGC1_s0_hspc_3_4"), "unlabelled");
  assert.equal(store.settle(), 0);
  assert.equal(storage.getItem("mkhspc/1/d5/set/FGC1_s0_hspc/0.0"), "not packed");
  assert.equal(store.get("FGC1_s0_hspc_1_2"), "positive");
});

test("what is no label below the prefix does not get among the labels", () => {
  const storage = new FakeStorage({
    "mkhspc/1/d5/new/nonsense": "p1",
    "mkhspc/1/d5/new/": "p1",
    "mkhspc/1/d5/set/nowhere": pack(new Map([[5, "positive"]])),
  });
  const store = storeAt(storage);
  store.set(cell(1), "positive");
  assert.deepEqual([...store.all()], [[cell(1), "positive"]]);
  assert.deepEqual(store.counts("hspc"), { positive: 1, negative: 0, unsure: 0 });
});

test("no key outside the dataset's prefix is written, read as a label or removed", () => {
  const clock = { ms: 1_700_000_000_000 };
  const others = { "mkhspc/1/other/new/FGC1_s0_mk_1_1": "pzzz", theme: "dark", "mkhspc/1/d5x/set/a/0.0": "x" };
  const storage = new FakeStorage(others);
  const store = storeAt(storage, clock);
  for (let i = 0; i < 50; i++) store.set(cell(i), "negative");
  store.write("annotator", "Ada");
  clock.ms += LATER;
  store.settle();
  assert.equal(store.all().size, 50);
  for (const [key, value] of Object.entries(others)) assert.equal(storage.getItem(key), value);
  const added = [...storage.map.keys()].filter((key) => !(key in others));
  assert.ok(added.every((key) => key.startsWith("mkhspc/1/d5/")));
});

test("a browser that forbids storage is no error, but every label is counted as unsaved", () => {
  const refuse = () => {
    throw new Error("SecurityError");
  };
  const store = storeAt({ length: 0, key: () => null, getItem: refuse, setItem: refuse, removeItem: refuse });
  assert.equal(store.set(cell(1), "unsure"), false);
  assert.equal(store.get(cell(1)), "unsure");
  assert.equal(store.unsaved.size, 1);
});
