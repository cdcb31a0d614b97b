// 20,000 sessions that nobody would think of: written in one world, and read in the other as they were.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { RedisStore } from "connect-redis";
import { sign } from "cookie-signature";
import session from "express-session";
import fc from "fast-check";
import { ask, MAX_AGE, SECRET, sessiondOn, startStore } from "./worlds.js";

let store, express;
before(async () => {
  store = await startStore();
  express = new RedisStore({ client: store.client });
});
after(() => store?.stop());

const BATCH = 100;

const numbers = fc.oneof(
  fc.constantFrom(0, -0, 1e21, -1e21, 1e-7, 5e-324, Number.MAX_VALUE, -Number.MAX_VALUE, 0.1, 1 / 3, 2.2250738585072014e-308),
  fc.constantFrom(Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, 2 ** 53, 2 ** 63, 2 ** 64, -(2 ** 63), 123456789012345680000),
  fc.integer(),
  fc.maxSafeInteger(),
  fc.double({ noNaN: true, noDefaultInfinity: true }),
);
const texts = fc.oneof(
  fc.string({ unit: "grapheme" }),
  fc.string({ unit: "binary" }),
  fc.constantFrom("", "\u0000", "\u007f\u0080", "\u2028\u2029", "</script>", "\\u0041", '"', "\ufeff", "\u{10ffff}", "e\u0301", "null", "%00"),
  fc.date({ noInvalidDate: true }).map((date) => date.toISOString()),
);
// Half characters: JSON can say them, in escapes, and Unicode cannot.
const halves = fc.array(fc.nat(0xffff), { maxLength: 8 }).map((units) => String.fromCharCode(...units));
const odd = ["", " ", "0", "-1", "1e3", "a.b", "/", "~0~1", "length", "then", "toJSON", "prototype", "Cookie", "sessiond ", "__proto", "\u0000", "\u2028", "ключ"];
const keys = fc.oneof(fc.string({ maxLength: 6 }), fc.string({ unit: "binary", maxLength: 6 }), fc.constantFrom(...odd));
/** Names that mean something at the top are plain keys further down. */
const deepKeys = fc.oneof(keys, fc.constantFrom("cookie", "sessiond", "id", "__proto__", "constructor", "toString", "hasOwnProperty"));
const reserved = new Set([...Object.getOwnPropertyNames(Object.prototype), "cookie", "sessiond", "id", "req", "touch", "resetMaxAge", "save", "reload", "destroy", "regenerate"]);

const object = (keys, values, maxLength) => fc.array(fc.tuple(keys, values), { maxLength }).map(Object.fromEntries);

/** Sessions' data, with leaves of these texts. */
function data(texts) {
  const leaves = fc.oneof(texts, numbers, fc.constantFrom(null, true, false));
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof(
      { depthSize: "small", withCrossShrink: true },
      { weight: 3, arbitrary: leaves },
      { weight: 1, arbitrary: fc.array(tie("value"), { maxLength: 4 }) },
      { weight: 1, arbitrary: object(deepKeys, tie("value"), 4) },
    ),
  }));
  const deep = fc.tuple(leaves, fc.nat(61)).map(([leaf, levels]) => {
    for (; levels > 0; levels--) leaf = levels % 2 ? [leaf] : { a: leaf };
    return leaf;
  });
  const long = fc.nat(60_000).map((length) => "x".repeat(length));
  const values = fc.oneof({ weight: 60, arbitrary: value }, { weight: 5, arbitrary: deep }, { weight: 1, arbitrary: long });
  const top = keys.filter((key) => !reserved.has(key));
  return object(top, values, 6).filter((all) => Buffer.byteLength(JSON.stringify(all)) <= 65_536);
}

/** 10,000 of them, a hundred at a time. A failure tells its seed, and not all hundred. */
function tenThousand(data, check) {
  const batches = fc.asyncProperty(fc.array(data, { minLength: BATCH, maxLength: BATCH }), check);
  return fc.assert(batches, {
    numRuns: 10_000 / BATCH,
    endOnFailure: true,
    asyncReporter: async ({ failed, seed, counterexamplePath, errorInstance }) => {
      if (failed) throw new Error(`seed ${seed}, path ${counterexamplePath}: ${errorInstance?.message}`);
    },
  });
}

/** Compared as JSON: -0 is 0 there, and the order of keys counts. */
function assertSame(actual, expected) {
  const [one, two] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (one !== two) assert.fail(`${one.slice(0, 2000)}\nis not\n${two.slice(0, 2000)}`);
}

/** What Express has of a session: as it loads it, and as it would save it. */
async function loaded(id) {
  const { cookie, sessiond, ...data } = express.createSession({ sessionStore: express, sessionID: id }, await express.get(id));
  return data;
}

const cookieOf = (id) => encodeURIComponent(`s:${sign(id, SECRET)}`);

test("10,000 sessions that Express wrote are read by sessiond as they were", async (t) => {
  const sessiond = await sessiondOn(t, store);
  let count = 0;
  await tenThousand(data(fc.oneof(texts, halves)), async (batch) => {
    const ids = batch.map(() => `random-${count++}`);
    await Promise.all(
      batch.map((data, i) => express.set(ids[i], { cookie: new session.Cookie({ maxAge: MAX_AGE }), ...data })),
    );
    const records = await Promise.all(ids.map(store.record));
    const { status, body } = await ask("POST", `${sessiond}/v1/sessions/resolve`, { json: { cookies: ids.map(cookieOf) } });
    assert.equal(status, 200);
    assert.deepEqual(body.unreadable, []);
    batch.forEach((data, i) => {
      assert.equal(body.sessions[i]?.id, ids[i]);
      assertSame(body.sessions[i].data, data);
    });
    assert.deepEqual(await Promise.all(ids.map(store.record)), records);
    await store.client.del(ids.map((id) => `sess:${id}`));
  });
  assert.ok(count >= 10_000);
});

test("10,000 sessions that sessiond wrote are read by Express as they were", async (t) => {
  const sessiond = await sessiondOn(t, store, "--save-uninitialized", "true");
  let count = 0;
  await tenThousand(data(texts), async (batch) => {
    // Half of them at once, half by an update: it reads all of the data, and writes all.
    const issue = async (data, i) => {
      const first = i % 2 ? { ...data, "a first": 1 } : data;
      const { status, body, setCookies } = await ask("POST", `${sessiond}/v1/sessions`, { json: { data: first } });
      assert.equal(status, 201, JSON.stringify(body).slice(0, 500));
      if (i % 2) {
        const headers = { "content-type": "application/merge-patch+json" };
        const cookie = setCookies[0].split(";")[0];
        const updated = await ask("PATCH", `${sessiond}/v1/session/data`, { json: { "a first": null }, headers, cookie });
        assert.equal(updated.status, 200);
      }
      count++;
      return body.id;
    };
    const ids = await Promise.all(batch.map(issue));
    const seen = await Promise.all(ids.map(loaded));
    batch.forEach((data, i) => assertSame(seen[i], data));
    await store.client.del(ids.map((id) => `sess:${id}`));
  });
  assert.ok(count >= 10_000);
});
