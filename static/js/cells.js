// What a cell id says, and the states that a cell can be in.

export const STATES = ["positive", "negative", "unsure"];
export const UNLABELLED = "unlabelled";
/** How a state reads on the page. */
export const WORDS = { positive: "yes", negative: "no", unsure: "unsure", [UNLABELLED]: "no label" };

const CELL_ID = /^(.+_s\d+_(mk|hspc))_(\d+)_(\d+)(?:_(\d+))?$/;

/**
 * The parts of a cell id, or null if the text is not a cell id.
 *
 * `group` is the id without its place: slide, scene and type.
 */
export function parseCellId(id) {
  const match = CELL_ID.exec(id);
  if (!match) return null;
  return { group: match[1], type: match[2], x: Number(match[3]), y: Number(match[4]), nth: match[5] };
}

/** The type of a cell, "mk" or "hspc", or null if the text is not a cell id. */
export function cellType(id) {
  const parts = parseCellId(id);
  return parts && parts.type;
}
