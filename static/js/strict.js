// JSON as `mkhspc convert` reads it: what it refuses must not get into a browser, or else nothing that is
// exported afterwards could be converted.

const MAX_DEPTH = 64;
const TOKENS = /("(?:[^"\\]|\\.)*")(\s*:)?|[{}[\]]|-?\d[\d.eE+-]*/g;

export class StrictError extends Error {}

/**
 * The text of a file.
 *
 * @param {ArrayBuffer | Uint8Array} bytes
 * @throws {StrictError} if it is not text in UTF-8.
 */
export function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new StrictError("it is not text in UTF-8");
  }
}

/**
 * The value of a JSON text.
 *
 * @throws {StrictError} if it is no JSON, is nested too deep, or holds a key twice in one object (of which
 *   JavaScript would keep the last alone) or a number that no table holds.
 */
export function parseStrictly(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new StrictError("it is not JSON");
  }
  check(text);
  return value;
}

/** Goes through a text that is known to be JSON. */
function check(text) {
  const open = [];
  for (const [token, string, colon] of text.matchAll(TOKENS)) {
    if (colon) checkKey(JSON.parse(string), open.at(-1));
    else if (token === "{" || token === "[") open.push(new Set());
    else if (token === "}" || token === "]") open.pop();
    else if (!string) checkNumber(token);
    if (open.length > MAX_DEPTH) throw new StrictError("it is nested too deep");
  }
}

function checkKey(key, keys) {
  if (keys.has(key)) throw new StrictError(`the key "${key.slice(0, 80)}" appears twice in one object`);
  keys.add(key);
}

function checkNumber(digits) {
  const plain = digits.replace("-", "");
  const isTooLong = /^\d+$/.test(plain) && (plain.length > 19 || BigInt(plain) >= 2n ** 63n);
  if (isTooLong || !Number.isFinite(Number(digits))) throw new StrictError(`${digits.slice(0, 40)} is too large a number`);
}
