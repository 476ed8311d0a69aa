import assert from "node:assert/strict";
import { test } from "node:test";
import {
  compare, exported, fileName, ImportError, keptName, newEvents, readExported, signed,
} from "../../static/js/exchange.js";

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
  for (const nobody of ["", "  ", null, undefined]) assert.equal(named(nobody), "anonymous");
});

test("a name is cut between characters, and written in one way", () => {
  assert.equal(keptName("x".repeat(59) + "🙂🙂"), "x".repeat(59) + "🙂");
  assert.equal(keptName("A\u0308rztin \ud83d"), "Ärztin");
  for (const name of ["🙂".repeat(70), "a\udc00b", "\ud83d"]) assert.ok(keptName(name).isWellFormed());
});

test("a file with a byte order mark is read", () => {
  const text = `\ufeff${JSON.stringify(file())}`;
  for (const content of [text, new TextEncoder().encode(text)]) assert.equal(readExported(content, "d5").labels.size, 3);
});

test("the run's name must be this gallery's", () => {
  assert.equal(readExported(JSON.stringify(file()), "d5", "abc").labels.size, 3);
  assert.throws(() => readExported(JSON.stringify(file()), "d5", "abd"), /another run \(abc\)/);
});

test("events brought in name who gave the answer", () => {
  const events = [EVENT, { ...EVENT, annotator: "Ben" }, { ...EVENT, annotator: "anonymous" }];
  assert.deepEqual(signed(events, "Ada").map((event) => event.annotator), ["Ada", "Ben", "Ada"]);
  assert.deepEqual(signed(events, "anonymous"), events);
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
  "a key twice": [JSON.stringify(file()).replace('"hspc":', '"mk":'), /the key "mk" appears twice/],
  "a key twice in an event": [
    JSON.stringify(file()).replace('"label":', '"\\u0061t": "2026-01-31T11:00:00Z", "label":'),
    /the key "at" appears twice/,
  ],
  "a number of 20 digits": [JSON.stringify(file()).replace("{", '{"a": 12345678901234567890, '), /too large a number/],
  "a number of no table": [JSON.stringify(file()).replace("{", '{"a": -9223372036854775808, '), /too large a number/],
  "a number beyond all": [JSON.stringify(file()).replace("{", '{"a": 1e999, '), /1e999 is too large a number/],
  "65 lists in lists": [JSON.stringify(file()).replace("{", `{"a": ${"[".repeat(64)}${"]".repeat(64)}, `), /nested too deep/],
  "bytes that are no text": [new Uint8Array([0x22, 0xe4, 0x22]), /not text in UTF-8/],
  "a list under a type": [JSON.stringify({ ...file(), mk: ["A_s0_mk_1_1"] }), /no lists under mk/],
  "null under a type": [JSON.stringify({ ...file(), mk: null }), /no lists under mk/],
  "negatives alone": [JSON.stringify({ ...file(), mk: { negative: ["A_s0_mk_1_1"] } }), /only negative labels under mk/],
  "no label and no event": [JSON.stringify({ ...file(), mk: {}, hspc: {}, events: [] }), /no label/],
  "an annotator that is no text": [JSON.stringify({ ...file(), annotator: 17 }), /annotator of this file is not a text/],
  "an export of yesterday": [JSON.stringify({ ...file(), exported_at: "yesterday" }), /"?yesterday"?, which is not a time/],
  "an id without end": [JSON.stringify({ ...file(), mk: { positive: [`${"A".repeat(256)}_s0_mk_1_1`] } }), /under mk/],
  "a dataset of a million letters": [JSON.stringify({ ...file(), dataset: "x".repeat(1e6) }), /\(x{80}\)/],
};
const DAMAGE = {
  cell_id: ["nonsense", 17, null, ["A_s0_mk_1_1"]],
  label: ["yes", { x: 1 }, undefined],
  at: [
    "noon", 17, null, "2026-13-45T12:00:00Z", "2026-02-31T12:00:00Z", "2026-01-31T24:00:00Z", "0000-01-01T12:00:00Z",
    "2026-01-31T12:00:00Z (noon)",
  ],
  seq: [-1, 1.5, "1", {}],
  browser: [17, "b".repeat(257)],
  annotator: [17, {}],
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
  const numbered = { ...EVENT, browser: "b", seq: 1 };
  assert.deepEqual(newEvents([numbered, { ...numbered, seq: 2 }], [numbered]), [{ ...numbered, seq: 2 }]);
});

test("a file's name is safe whatever the annotator is called", () => {
  assert.equal(fileName("d5", "anonymous"), "annotations_d5_anonymous.json");
  assert.equal(fileName("d5", "Zoë / ../x"), "annotations_d5_Zoë_.._x.json");
  assert.equal(fileName("d5", "..\\..\\x\u0000\n."), "annotations_d5_x.json");
  assert.equal(fileName("d5", 'a:b*c?"d<e>f|g'), "annotations_d5_a_b_c_d_e_f_g.json");
  assert.equal(fileName("d5", "CON"), "annotations_d5_CON.json");
  assert.equal(fileName("d5", "evil\u202etxt"), "annotations_d5_eviltxt.json");
});

test("a file's name keeps the letters of every script", () => {
  for (const name of ["Иванова", "田中", "Ärztin", "李", "محمد", "हिन्दी", "Ђорђе-2"]) {
    assert.equal(fileName("d5", name), `annotations_d5_${name}.json`);
  }
  assert.equal(fileName("d5", "A\u0308rztin Müller"), "annotations_d5_Ärztin_Müller.json");
  assert.equal(fileName("d5", "🙂"), "annotations_d5_anonymous.json");
});

test("a file's name fits into a file system's, and no character of it is cut", () => {
  for (const letter of ["x", "ж", "田", "𠮷"]) {
    for (const [before, after] of [["", ""], ["x", "."], ["xx", "\ud842"]]) {
      const name = fileName("d5", before + letter.repeat(200) + after);
      assert.ok(name.isWellFormed());
      assert.ok(!name.includes("\ufffd"));
      const bytes = new TextEncoder().encode(name).length;
      assert.ok(bytes > 130 && bytes < 150, `${bytes} bytes`);
      assert.ok(name.endsWith(`${letter}.json`));
    }
  }
});
