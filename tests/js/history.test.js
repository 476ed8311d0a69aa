import assert from "node:assert/strict";
import { test } from "node:test";
import { History } from "../../static/js/history.js";
import { randomNumbers } from "./helpers.js";

function apply(state, changes) {
  for (const { key, before, after } of changes) {
    assert.equal(state[key], before);
    state[key] = after;
  }
}

test("undoing everything leads back to the start, redoing everything to the end", () => {
  const next = randomNumbers(11);
  const history = new History();
  const state = { a: "0", b: "0", c: "0" };
  let steps = 0;
  for (let i = 0; i < 200; i++) {
    const after = String(Math.floor(next() * 3));
    const keys = ["a", "b", "c"].slice(0, 1 + Math.floor(next() * 3));
    const changes = keys.map((key) => ({ key, before: state[key], after }));
    if (changes.some(({ before }) => before !== after)) steps += 1;
    history.push(changes);
    for (const key of keys) state[key] = after;
  }
  const end = { ...state };
  let undone = 0;
  for (let step = history.undo(); step; step = history.undo()) {
    apply(state, step);
    undone += 1;
  }
  assert.equal(undone, steps);
  assert.deepEqual(state, { a: "0", b: "0", c: "0" });
  for (let step = history.redo(); step; step = history.redo()) apply(state, step);
  assert.deepEqual(state, end);
});

test("a new step forgets what was undone", () => {
  const history = new History();
  history.push([{ key: "a", before: "0", after: "1" }]);
  history.undo();
  assert.equal(history.canRedo, true);
  history.push([{ key: "b", before: "0", after: "1" }]);
  assert.equal(history.redo(), null);
});

test("a step that changes nothing is none", () => {
  const history = new History();
  history.push([{ key: "a", before: "1", after: "1" }]);
  assert.equal(history.canUndo, false);
});

test("the oldest steps are forgotten first", () => {
  const history = new History(2);
  for (const after of ["1", "2", "3"]) history.push([{ key: "a", before: "0", after }]);
  assert.deepEqual([history.undo(), history.undo(), history.undo()].map((step) => step?.[0].before), ["3", "2", undefined]);
});
