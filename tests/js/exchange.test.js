import assert from "node:assert/strict";
import { test } from "node:test";
import { compare, exported, fileName, ImportError, newEvents, readExported } from "../../static/js/exchange.js";

const SETTINGS = { dataset: "d5", config_hash: "abc" };
const LABELS = new Map([
  ["A_s0_mk_2_2", "positive"],
  ["A_s0_mk_1_1", "positive"],
  ["A_s1_hspc_1_1", "unsure"],
]);
const EVENT = { cell_id: "A_s0_mk_1_1", label: "positive", at: "2026-01-31T12:00:00.000Z", policy: "random" };

function file() {
  return exported(SETTINGS, "Ada", LABELS, [EVENT], new Date("2026-01-31T12:00:00.500Z"));
}

test("the exported file has the shape of the contract", () => {
  assert.deepEqual(file(), {
    format: "mkhspc-annotations",
    version: 1,
    dataset: "d5",
    config_hash: "abc",
    annotator: "Ada",
    exported_at: "2026-01-31T12:00:00Z",
    mk: { positive: ["A_s0_mk_1_1", "A_s0_mk_2_2"], negative: [], unsure: [] },
    hspc: { positive: [], negative: [], unsure: ["A_s1_hspc_1_1"] },
    events: [EVENT],
  });
});

test("what was exported is read back whole", () => {
  const read = readExported(JSON.stringify(file()), "d5");
  assert.deepEqual(new Map([...read.labels].sort()), new Map([...LABELS].sort()));
  assert.deepEqual(read.events, [EVENT]);
  assert.equal(read.annotator, "Ada");
});

test("keys that nobody knows are ignored, and those that are not known may be missing", () => {
  const event = { cell_id: EVENT.cell_id, label: "unlabelled", mood: "bad", inclusion_prob: 0.5 };
  const read = readExported(JSON.stringify({ ...file(), mood: "good", events: [event] }), "d5");
  assert.equal(read.labels.size, 3);
  assert.deepEqual(read.events, [event]);
  assert.deepEqual(readExported(JSON.stringify({ ...file(), events: undefined }), "d5").events, []);
});

test("a name is a short text, or else nobody's", () => {
  const named = (annotator) => readExported(JSON.stringify({ ...file(), annotator }), "d5").annotator;
  assert.equal(named("x".repeat(1000)).length, 60);
  for (const nobody of [17, "", null, undefined, {}]) assert.equal(named(nobody), "anonymous");
});

const WRONG = {
  "no JSON": ["not json", /not JSON/],
  "JSON of something else": ['{"a": 1}', /no labels/],
  "a bare null": ["null", /no labels/],
  "another dataset": [JSON.stringify({ ...file(), dataset: "d6" }), /another dataset \(d6\)/],
  "another version": [JSON.stringify({ ...file(), version: 2 }), /version 2/],
  "a list that is none": [JSON.stringify({ ...file(), mk: { positive: "A_s0_mk_1_1" } }), /no list under mk/],
  "an id that is none": [JSON.stringify({ ...file(), mk: { positive: [17] } }), /17/],
  "an id of the other type": [JSON.stringify({ ...file(), mk: { positive: ["A_s0_hspc_9_9"] } }), /under mk/],
  "a cell with two labels": [
    JSON.stringify({ ...file(), mk: { positive: ["A_s0_mk_1_1"], unsure: ["A_s0_mk_1_1"] } }),
    /two labels/,
  ],
  "events that are no list": [JSON.stringify({ ...file(), events: {} }), /no list under events/],
  "a dataset of a million letters": [JSON.stringify({ ...file(), dataset: "x".repeat(1e6) }), /\(x{80}\)/],
};
const DAMAGE = {
  cell_id: ["nonsense", 17, null],
  label: ["yes", { x: 1 }, undefined],
  at: ["noon", 17, null, "2026-13-45T12:00:00Z"],
  policy: ["", 17, "p".repeat(41)],
  inclusion_prob: [0, 1.5, "1"],
};
for (const [key, values] of Object.entries(DAMAGE)) {
  for (const value of values) {
    const events = [EVENT, { ...EVENT, [key]: value }];
    WRONG[`an event whose ${key} is ${value}`] = [JSON.stringify({ ...file(), events }), /damaged event/];
  }
}
for (const [name, [text, message]] of Object.entries(WRONG)) {
  test(`refused with a sentence: ${name}`, () => {
    assert.throws(() => readExported(text, "d5"), (error) => error instanceof ImportError && message.test(error.message));
  });
}

test("labels of a file are sorted into new, same and differing", () => {
  const mine = { "A_s0_mk_1_1": "positive", "A_s0_mk_2_2": "negative" };
  assert.deepEqual(compare(LABELS, (id) => mine[id] ?? "unlabelled"), {
    added: [{ id: "A_s1_hspc_1_1", label: "unsure" }],
    same: 1,
    conflicts: [{ id: "A_s0_mk_2_2", mine: "negative", theirs: "positive" }],
  });
});

test("events that are here already are not brought in again", () => {
  const other = { ...EVENT, at: "2026-02-01T12:00:00.000Z" };
  assert.deepEqual(newEvents([EVENT, other], [{ ...EVENT, dwell_ms: 5 }]), [other]);
});

test("a file's name is safe whatever the annotator is called", () => {
  assert.equal(fileName("d5", "anonymous"), "annotations_d5_anonymous.json");
  assert.equal(fileName("d5", "Zoë / ../x"), "annotations_d5_Zoe_.._x.json");
  assert.equal(fileName("d5", "Zoë Müller"), "annotations_d5_Zoe_Muller.json");
  assert.equal(fileName("d5", "李"), "annotations_d5_anonymous.json");
});
