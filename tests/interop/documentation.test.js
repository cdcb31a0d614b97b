// docs/express-compatibility.md says nothing that is not tried here.

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { test } from "node:test";

const read = (path) => readFile(new URL(path, import.meta.url), "utf8");

test("every row of the page names tests that there are, and every test has a row", async () => {
  const files = (await readdir(new URL(".", import.meta.url))).filter((name) => name.endsWith(".test.js"));
  const tests = new Set();
  for (const file of files.filter((file) => file !== "documentation.test.js")) {
    for (const [, name] of (await read(file)).matchAll(/^test\("(.*)", async/gm)) {
      assert.ok(!tests.has(name), `two tests are called ${name}`);
      tests.add(name);
    }
  }
  const page = await read("../../docs/express-compatibility.md");
  const rows = page.split("\n").filter((line) => line.startsWith("|") && !/^\|(-|[^|]*\| (Express|Fastify) \|[^|]*\| \|)/.test(line));
  assert.ok(rows.length > 30, `${rows.length} rows`);
  const named = new Set();
  for (const row of rows) {
    const cells = row.split(/(?<!\\)\|/).slice(1, -1);
    assert.equal(cells.length, 5, row);
    const names = [...cells[4].matchAll(/“([^”]*)”/g)].map(([, name]) => name);
    assert.ok(names.length > 0, `no test is named: ${row}`);
    for (const name of names) {
      assert.ok(tests.has(name), `there is no test ${name}`);
      named.add(name);
    }
  }
  assert.deepEqual([...tests].filter((name) => !named.has(name)), []);
});
