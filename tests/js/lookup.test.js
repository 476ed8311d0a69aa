import assert from "node:assert/strict";
import { test } from "node:test";
import { cellInHash, crc32, pagesOf } from "../../static/js/lookup.js";

test("CRC-32 is the one of zip files", () => {
  assert.equal(crc32("123456789"), 0xcbf43926);
  assert.equal(crc32(""), 0);
});

test("a cell is asked for by #cell= alone", () => {
  assert.equal(cellInHash("#cell=FGC1_s0_mk_1_2"), "FGC1_s0_mk_1_2");
  assert.equal(cellInHash("#cell=a%20b"), "a b");
  for (const hash of ["", "#", "#cell=", "#top", "#cell=%E0%A4%A"]) assert.equal(cellInHash(hash), null, hash);
});

const SETTINGS = { root: "../", lookups: { mk: ["mk-cells-abc", 4] } };

test("one small file tells a cell's page", async () => {
  const id = "FGC1_s0_mk_1_2";
  const asked = [];
  const getJson = async (address) => {
    asked.push(address);
    return { [crc32(id)]: [12] };
  };
  assert.deepEqual(await pagesOf(id, SETTINGS, getJson), ["../mk/page-012.html"]);
  assert.deepEqual(asked, [`../assets/mk-cells-abc/${crc32(id) % 4}.json`]);
});

test("a cell that the site lacks has no page", async () => {
  assert.deepEqual(await pagesOf("FGC1_s0_mk_1_2", SETTINGS, async () => ({})), []);
  assert.deepEqual(await pagesOf("FGC1_s0_hspc_1_2", SETTINGS, assert.fail), []);
  assert.deepEqual(await pagesOf("nonsense", SETTINGS, assert.fail), []);
});
