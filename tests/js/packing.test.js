import assert from "node:assert/strict";
import { test } from "node:test";
import { STATES } from "../../static/js/cells.js";
import { cellAt, locate, pack, unpack } from "../../static/js/packing.js";
import { randomNumbers } from "./helpers.js";

test("a cell's square and place give its id back", () => {
  for (const id of ["FGC1_s0_mk_0_0", "a.b-c_1_s12_hspc_8191_8192", "S_s0_hspc_123456_98765", "x_mk_1_2_s3_mk_4_5"]) {
    const { square, place } = locate(id);
    assert.equal(cellAt(square, place), id);
  }
});

test("ids that cannot be packed are told apart", () => {
  for (const id of ["FGC1_s0_mk_1_2_2", "FGC1_s0_mk_01_2", "FGC1_mk_1_2", "nonsense", "FGC1_s0_mk_99999999999_2"]) {
    assert.equal(locate(id), null, id);
  }
});

test("packed labels come back, in any number and from any place", () => {
  const next = randomNumbers(7);
  for (let round = 0; round < 50; round++) {
    const labels = new Map();
    for (let i = 0; i < round * 20; i++) labels.set(Math.floor(next() * 2 ** 26), STATES[Math.floor(next() * 3)]);
    const text = pack(labels);
    assert.equal(text.length, 2 * labels.size);
    assert.deepEqual(unpack(text), new Map([...labels].sort(([a], [b]) => a - b)));
  }
});

test("packed text holds no surrogate and no control character", () => {
  const corners = [0, 8191, 8192, 2 ** 26 - 1];
  for (const state of STATES) {
    for (const character of pack(new Map(corners.map((place) => [place, state])))) {
      const code = character.codePointAt(0);
      assert.ok(code >= 0x3400 && code < 0xd800, code.toString(16));
    }
  }
});

test("text that is no packed labels is refused, not guessed at", () => {
  for (const text of ["ab", "\u3400\u3400", "\u3400", "\u3400\u3401x"]) assert.throws(() => unpack(text), RangeError);
});
