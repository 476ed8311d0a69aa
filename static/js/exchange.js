// The file that carries labels from one browser to another, and to `mkhspc convert`.

import { STATES, UNLABELLED, cellType } from "./cells.js";
import { StrictError, decoded, parseStrictly } from "./strict.js";

export const FORMAT = "mkhspc-annotations";
export const VERSION = 1;
export const ANONYMOUS = "anonymous";
const TYPES = ["mk", "hspc"];
const MAX_NAME = 60;
const MAX_POLICY = 40;
const MAX_ID = 256;
const MAX_NAME_IN_FILE = 256;
const MAX_NAME_BYTES = 120;
const TIME = /^(\d{4})-(\d\d)-(\d\d)T([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)?$/;

/**
 * The contents of an exported file.
 *
 * @param {{dataset: string, config_hash: string}} settings - of the page.
 * @param {string} annotator
 * @param {Map<string, string>} labels - cell id to state.
 * @param {object[]} events - oldest first.
 * @param {Date} at
 */
export function exported(settings, annotator, labels, events, at) {
  const file = {
    format: FORMAT,
    version: VERSION,
    dataset: settings.dataset,
    config_hash: settings.config_hash,
    annotator,
    exported_at: `${at.toISOString().slice(0, 19)}Z`,
  };
  for (const type of TYPES) file[type] = Object.fromEntries(STATES.map((state) => [state, []]));
  for (const [id, state] of labels) file[cellType(id)][state].push(id);
  for (const type of TYPES) for (const state of STATES) file[type][state].sort();
  return { ...file, events };
}

/**
 * The name of an exported file: letters of any script, at most 120 bytes of them, for a file's whole name has
 * room for 255. It begins with a word of its own, so that no system takes it for a device.
 */
export function fileName(dataset, annotator) {
  const plain = annotator.normalize("NFC").replace(/\p{Cf}/gu, "");
  const safe = plain.replace(/[^\p{L}\p{M}\p{N}.-]+/gu, "_").replace(/^[_.-]+/, "");
  return `annotations_${dataset}_${cut(safe).replace(/[_.-]+$/, "") || ANONYMOUS}.json`;
}

/** As much of a text as fits, in whole characters. */
function cut(text) {
  const encoder = new TextEncoder();
  let bytes = 0;
  return [...text].filter((character) => (bytes += encoder.encode(character).length) <= MAX_NAME_BYTES).join("");
}

/** A name as it is kept: at most 60 characters, none of them half of one; "" for nobody's. */
export function keptName(name) {
  const whole = name.normalize("NFC").replace(/\p{Cs}/gu, "").trim();
  return [...whole].slice(0, MAX_NAME).join("").trim();
}

/**
 * Reads an exported file: `{labels, events, annotator}`.
 *
 * @param {string | ArrayBuffer | Uint8Array} content
 * @param {string} dataset - of this gallery.
 * @param {string} [configHash] - of the run that this gallery shows.
 * @throws {ImportError} with a sentence for the annotator, if the file is not for this gallery.
 */
export function readExported(content, dataset, configHash) {
  const file = parse(content);
  if (file === null || typeof file !== "object" || file.format !== FORMAT) {
    throw new ImportError("This file holds no labels of a gallery: it was not made by Export.");
  }
  if (file.version !== VERSION) {
    throw new ImportError(`This file is of version ${brief(file.version)}, which this gallery cannot read.`);
  }
  if (file.dataset !== dataset) {
    const theirs = brief(file.dataset);
    throw new ImportError(`This file belongs to another dataset (${theirs}); this gallery is of ${dataset}.`);
  }
  checkFacts(file, configHash);
  const annotator = keptName(file.annotator ?? "") || ANONYMOUS;
  const labels = readLabels(file);
  const events = readEvents(file);
  if (!labels.size && !events.length) throw new ImportError("This file holds no label.");
  return { labels, events, annotator };
}

function checkFacts({ annotator = null, exported_at = null, config_hash = null }, configHash = config_hash) {
  if (annotator !== null && typeof annotator !== "string") {
    throw new ImportError("The annotator of this file is not a text.");
  }
  if (exported_at !== null && !isTime(exported_at)) {
    throw new ImportError(`This file was exported at ${brief(exported_at)}, which is not a time.`);
  }
  if (config_hash !== null && (typeof config_hash !== "string" || config_hash !== configHash)) {
    throw new ImportError(`This file belongs to another run (${brief(config_hash)}).`);
  }
}

/** Events of a file that say who gave each answer: whom they name, or else the one whose file it is. */
export function signed(events, annotator) {
  if (annotator === ANONYMOUS) return events;
  return events.map((event) => ((event.annotator ?? ANONYMOUS) === ANONYMOUS ? { ...event, annotator } : event));
}

export class ImportError extends Error {}

function parse(content) {
  try {
    return parseStrictly(typeof content === "string" ? content.replace(/^\uFEFF/, "") : decoded(content));
  } catch (error) {
    if (!(error instanceof StrictError)) throw error;
    throw new ImportError(`This file cannot be read (${error.message}): choose a file that Export has made.`);
  }
}

function readLabels(file) {
  const labels = new Map();
  for (const type of TYPES) for (const [state, ids] of readLists(file, type)) addLabels(labels, type, state, ids);
  return labels;
}

/** The lists of a type. Without its positives a file would say that there are none. */
function readLists(file, type) {
  const lists = type in file ? file[type] : {};
  if (lists === null || typeof lists !== "object" || Array.isArray(lists)) {
    throw new ImportError(`This file has no lists under ${type}.`);
  }
  if (!("positive" in lists) && lists.negative?.length) {
    throw new ImportError(`This file has only negative labels under ${type}.`);
  }
  return STATES.map((state) => [state, state in lists ? lists[state] : []]);
}

function addLabels(labels, type, state, ids) {
  if (!Array.isArray(ids)) throw new ImportError(`This file has no list under ${type}, ${state}.`);
  for (const id of ids) {
    if (!isId(id) || cellType(id) !== type) {
      throw new ImportError(`This file lists ${brief(id)} under ${type}, which is not the id of such a cell.`);
    }
    if (labels.has(id)) throw new ImportError(`This file gives ${id} two labels.`);
    labels.set(id, state);
  }
}

function readEvents(file) {
  const events = "events" in file ? file.events : [];
  if (!Array.isArray(events)) throw new ImportError("This file has no list under events.");
  // an event that `convert` refuses must not get into what is exported from here
  const damaged = events.find((event) => !isEvent(event));
  if (damaged !== undefined) throw new ImportError(`This file has a damaged event: ${brief(damaged)}`);
  return events;
}

function isEvent(event) {
  const { cell_id, label, at, policy, inclusion_prob = null, seq = null } = Object(event);
  return (
    isId(cell_id) &&
    cellType(cell_id) !== null &&
    [...STATES, UNLABELLED].includes(label) &&
    (at === undefined || isTime(at)) &&
    (policy === undefined || (typeof policy === "string" && policy.length > 0 && policy.length <= MAX_POLICY)) &&
    (inclusion_prob === null || (typeof inclusion_prob === "number" && inclusion_prob > 0 && inclusion_prob <= 1)) &&
    (seq === null || (Number.isSafeInteger(seq) && seq >= 0)) &&
    [event.browser, event.annotator].every(isName)
  );
}

function isId(value) {
  return typeof value === "string" && value.length <= MAX_ID;
}

function isName(value) {
  return value === undefined || value === null || (typeof value === "string" && value.length <= MAX_NAME_IN_FILE);
}

/** Whether a text is a time of the calendar; browsers take the 31st of February for the 3rd of March. */
function isTime(text) {
  const match = typeof text === "string" && TIME.exec(text);
  if (!match) return false;
  const [year, month, day] = match.slice(1, 4).map(Number);
  const date = new Date(Date.UTC(2000, month - 1, day));
  date.setUTCFullYear(year, month - 1, day);
  return year > 0 && month > 0 && date.getUTCMonth() === month - 1 && date.getUTCDate() === day;
}

/** A value as it may stand in a sentence. */
function brief(value) {
  return (typeof value === "string" ? value : String(JSON.stringify(value))).slice(0, 80);
}

/**
 * Sorts the labels of a file by what is here already: `{added, same, conflicts}`.
 *
 * @param {Map<string, string>} theirs
 * @param {(id: string) => string} mine - the state of a cell here.
 */
export function compare(theirs, mine) {
  const added = [];
  const conflicts = [];
  let same = 0;
  for (const [id, label] of theirs) {
    const here = mine(id);
    if (here === label) same += 1;
    else if (here === UNLABELLED) added.push({ id, label });
    else conflicts.push({ id, mine: here, theirs: label });
  }
  return { added, same, conflicts };
}

/** Events of `theirs` that are not among `mine`. */
export function newEvents(theirs, mine) {
  const known = new Set(mine.map(eventKey));
  return theirs.filter((event) => !known.has(eventKey(event)));
}

function eventKey(event) {
  const { cell_id, label, at, policy, browser, seq } = event;
  return JSON.stringify([cell_id, label, at, policy, browser ?? null, seq ?? null]);
}
