// The file that carries labels from one browser to another, and to `mkhspc convert`.

import { STATES, UNLABELLED, cellType } from "./cells.js";

export const FORMAT = "mkhspc-annotations";
export const VERSION = 1;
export const ANONYMOUS = "anonymous";
const TYPES = ["mk", "hspc"];
const MAX_NAME = 60;
const MAX_POLICY = 40;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d/;

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

/** The name of an exported file. */
export function fileName(dataset, annotator) {
  const plain = annotator.normalize("NFKD").replace(/\p{Mark}/gu, "");
  const safe = plain.replace(/[^A-Za-z0-9.-]+/g, "_").replace(/^[_.]+|[_.]+$/g, "");
  return `annotations_${dataset}_${safe || ANONYMOUS}.json`;
}

/**
 * Reads an exported file: `{labels, events, annotator}`.
 *
 * @throws {ImportError} with a sentence for the annotator, if the file is not for this gallery.
 */
export function readExported(text, dataset) {
  const file = parse(text);
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
  const annotator = typeof file.annotator === "string" ? file.annotator.slice(0, MAX_NAME) : ANONYMOUS;
  return { labels: readLabels(file), events: readEvents(file), annotator: annotator || ANONYMOUS };
}

export class ImportError extends Error {}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new ImportError("This file is not JSON: choose a file that Export has made.");
  }
}

function readLabels(file) {
  const labels = new Map();
  for (const type of TYPES) {
    for (const state of STATES) {
      const ids = file[type]?.[state] ?? [];
      if (!Array.isArray(ids)) throw new ImportError(`This file has no list under ${type}, ${state}.`);
      for (const id of ids) {
        if (typeof id !== "string" || cellType(id) !== type) {
          throw new ImportError(`This file lists ${brief(id)} under ${type}, which is not the id of such a cell.`);
        }
        if (labels.has(id)) throw new ImportError(`This file gives ${id} two labels.`);
        labels.set(id, state);
      }
    }
  }
  return labels;
}

function readEvents(file) {
  const events = file.events ?? [];
  if (!Array.isArray(events)) throw new ImportError("This file has no list under events.");
  // an event that `convert` refuses must not get into what is exported from here
  const damaged = events.find((event) => !isEvent(event));
  if (damaged !== undefined) throw new ImportError(`This file has a damaged event: ${brief(damaged)}`);
  return events;
}

function isEvent(event) {
  const { cell_id, label, at, policy, inclusion_prob = null } = Object(event);
  return (
    cellType(String(cell_id)) !== null &&
    [...STATES, UNLABELLED].includes(label) &&
    (at === undefined || (TIME.test(at) && !Number.isNaN(Date.parse(at)))) &&
    (policy === undefined || (typeof policy === "string" && policy.length > 0 && policy.length <= MAX_POLICY)) &&
    (inclusion_prob === null || (typeof inclusion_prob === "number" && inclusion_prob > 0 && inclusion_prob <= 1))
  );
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
  return [event.cell_id, event.label, event.at, event.policy].join("\n");
}
