// Labels in two characters each, without loss.
//
// A cell id is its slide, scene and type, and a place in pixels. Labels are kept in squares of
// 8192 px: the square's name holds slide, scene, type and which square it is, so that a label needs only its
// place in the square (13 bits each way) and its state (2 bits). These 28 bits go into two
// characters of 15 bits. The characters used, U+3400 to U+B3FF, are all single UTF-16 units and
// never surrogates, so a string of them survives any browser's storage. A million labels take two
// million characters, however they are spread over pages, orders and sizes of the gallery.

import { STATES, cellType, parseCellId } from "./cells.js";

const SQUARE_BITS = 13;
const SQUARE_PX = 1 << SQUARE_BITS;
const LOW = SQUARE_PX - 1;
const FIRST_CHARACTER = 0x3400;
const CHARACTER_BITS = 15;
const MAX_PX = 2 ** 31;

/** Where a cell's label belongs: `{square, place}`; null if the id cannot be packed. */
export function locate(id) {
  const parts = parseCellId(id);
  if (!parts || parts.nth || parts.x >= MAX_PX || parts.y >= MAX_PX) return null;
  const { group, x, y } = parts;
  if (`${group}_${x}_${y}` !== id) return null;
  const square = `${group}/${x >>> SQUARE_BITS}.${y >>> SQUARE_BITS}`;
  return { square, place: (x & LOW) * SQUARE_PX + (y & LOW) };
}

/** The cell id of a place in a square: the inverse of `locate`. */
export function cellAt(square, place) {
  const slash = square.lastIndexOf("/");
  const [column, row] = square.slice(slash + 1).split(".").map(Number);
  const x = column * SQUARE_PX + Math.floor(place / SQUARE_PX);
  const y = row * SQUARE_PX + (place & LOW);
  return `${square.slice(0, slash)}_${x}_${y}`;
}

/** Text of the labels of a square, a Map of place to state. */
export function pack(labels) {
  const places = [...labels.keys()].sort((a, b) => a - b);
  return places.map((place) => packOne(place, labels.get(place))).join("");
}

/**
 * The labels in a square's text, as a Map of place to state.
 *
 * @throws {RangeError} if the text was not made by `pack`.
 */
export function unpack(text) {
  const labels = new Map();
  for (let i = 0; i < text.length; i += 2) {
    const high = text.charCodeAt(i) - FIRST_CHARACTER;
    const low = text.charCodeAt(i + 1) - FIRST_CHARACTER;
    const state = STATES[(low & 3) - 1];
    if (!(high >= 0 && high < 1 << CHARACTER_BITS && low >= 0 && low < 1 << CHARACTER_BITS && state)) {
      throw new RangeError(`not packed labels: ${JSON.stringify(text.slice(0, 20))}`);
    }
    labels.set(high * 2 ** SQUARE_BITS + (low >> 2), state);
  }
  return labels;
}

/** How many labels of each state a square's text holds, by state. */
export function countPacked(text) {
  const counts = [0, 0, 0, 0];
  for (let i = 1; i < text.length; i += 2) counts[(text.charCodeAt(i) - FIRST_CHARACTER) & 3] += 1;
  return Object.fromEntries(STATES.map((state, i) => [state, counts[i + 1]]));
}

/** The type of the cells in a square. */
export function squareType(square) {
  return cellType(`${square.slice(0, square.lastIndexOf("/"))}_0_0`);
}

function packOne(place, state) {
  const high = Math.floor(place / 2 ** SQUARE_BITS);
  const low = ((place & LOW) << 2) | (STATES.indexOf(state) + 1);
  return String.fromCharCode(FIRST_CHARACTER + high, FIRST_CHARACTER + low);
}
