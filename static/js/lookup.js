// Finds the page of a cell, by the CRC-32 of its id, in the site's lookup files.

import { cellType } from "./cells.js";

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** CRC-32 of a text's UTF-8 bytes, as in zip and PNG. */
export function crc32(text) {
  let crc = 0xffffffff;
  for (const byte of new TextEncoder().encode(text)) crc = (crc >>> 8) ^ TABLE[(crc ^ byte) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}

/** The cell that an address asks for in its `#cell=...`, or null. */
export function cellInHash(hash) {
  const match = /^#cell=(.+)$/.exec(hash);
  if (!match) return null;
  try {
    return decodeURIComponent(match[1]);
  } catch {
    return null;
  }
}

/** Address of a page of cards, from a page whose way to the site's root is `root`. */
export function pageAddress(root, type, page) {
  return `${root}${type}/page-${String(page).padStart(3, "0")}.html`;
}

/**
 * The pages on which a cell may stand, as addresses; almost always one, none if the site lacks it.
 *
 * @param {{root: string, lookups: Object<string, [string, number]>}} settings
 * @param {(address: string) => Promise<object>} getJson
 */
export async function pagesOf(id, settings, getJson) {
  const type = cellType(id);
  const lookup = settings.lookups[type];
  if (!lookup) return [];
  const [directory, files] = lookup;
  const crc = crc32(id);
  const pages = await getJson(`${settings.root}assets/${directory}/${crc % files}.json`);
  return (pages[crc] ?? []).map((page) => pageAddress(settings.root, type, page));
}
