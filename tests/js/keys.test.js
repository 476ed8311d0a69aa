import assert from "node:assert/strict";
import { test } from "node:test";
import { moved } from "../../static/js/grid.js";
import { commandOf } from "../../static/js/keys.js";

function press(key, more = {}) {
  return commandOf({ key, getModifierState: () => more.capsLock ?? false, ...more });
}

test("every key of the contract means what the contract says", () => {
  const meant = {
    ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", y: "positive", n: "negative", u: "unsure",
    x: "clear", z: "undo", Z: "redo", a: "select-all", c: "contours", "[": "previous-page", "]": "next-page", "?": "help",
  };
  for (const [key, command] of Object.entries(meant)) assert.equal(press(key), command, key);
});

test("caps lock changes nothing", () => {
  assert.equal(press("Y", { capsLock: true }), "positive");
  assert.equal(press("Z", { capsLock: true }), "undo");
  assert.equal(press("z", { capsLock: true, shiftKey: true }), "redo");
});

test("the browser's own shortcuts are left to the browser, but for undo", () => {
  for (const key of ["a", "c", "n", "u", "y", "x", "?"]) assert.equal(press(key, { ctrlKey: true }), null, key);
  assert.equal(press("y", { altKey: true }), null);
  assert.equal(press("z", { ctrlKey: true }), "undo");
  assert.equal(press("Z", { metaKey: true, shiftKey: true }), "redo");
});

test("brackets and the question mark may need Alt or AltGr, as on German and French keyboards", () => {
  assert.equal(press("[", { altKey: true }), "previous-page");
  assert.equal(press("]", { altKey: true, ctrlKey: true }), "next-page");
  assert.equal(press("?", { altKey: true }), "help");
  for (const key of ["[", "]"]) assert.equal(press(key, { metaKey: true }), null, key);
});

test("other keys mean nothing", () => {
  for (const key of ["q", "Enter", "Tab", " ", "F5", "Dead"]) assert.equal(press(key), null, key);
});

test("arrows move on the grid as it is seen", () => {
  // 0 1 2 3
  // 4 5 6 7
  // 8 9
  const go = (index, move) => moved(index, move, 4, 10);
  assert.deepEqual(["left", "right", "up", "down"].map((move) => go(5, move)), [4, 6, 1, 9]);
  assert.deepEqual(["left", "up"].map((move) => go(0, move)), [0, 0]);
  assert.deepEqual(["right", "down"].map((move) => go(9, move)), [9, 9]);
  assert.equal(go(3, "right"), 4);
  assert.equal(go(6, "down"), 9);
  assert.equal(go(8, "down"), 8);
  assert.deepEqual(["first", "last"].map((move) => go(5, move)), [0, 9]);
});

test("no move leaves the cards, whatever the grid", () => {
  for (let count = 1; count < 12; count++) {
    for (let columns = 1; columns < 6; columns++) {
      for (let index = 0; index < count; index++) {
        for (const move of ["left", "right", "up", "down", "first", "last"]) {
          const to = moved(index, move, columns, count);
          assert.ok(to >= 0 && to < count, `${move} from ${index} of ${count} in ${columns}: ${to}`);
        }
      }
    }
  }
});
