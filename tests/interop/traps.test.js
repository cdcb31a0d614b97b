// Where express-session is known to bite, and records that it cannot read.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { sign } from "cookie-signature";
import { ask, Browser, dataOf, expressOn, MAX_AGE, SECRET, sessiondOn, startStore } from "./worlds.js";

let store;
before(async () => (store = await startStore()));
after(() => store?.stop());

const cookieOf = (id) => `connect.sid=${encodeURIComponent(`s:${sign(id, SECRET)}`)}`;
const merge = { "content-type": "application/merge-patch+json" };
const save = (app) => app.post("/save", (req, res, next) => req.session.save((error) => (error ? next(error) : res.end())));

/** Puts this record there, for a minute. */
async function put(id, record, ttl = 60) {
  await store.client.set(`sess:${id}`, record, { expiration: { type: "EX", value: ttl } });
}

test("sessiond's touch keeps a session through Express's save in mid-request", async (t) => {
  const app = await expressOn(t, store, { cookie: { maxAge: 2000 } }, { routes: save });
  const sessiond = await sessiondOn(t, store);
  const [ours, theirs] = [new Browser(), new Browser()];
  const issued = (await ours.post(`${sessiond}/v1/sessions`, { data: { n: 1 }, idle_timeout_ms: 2000 })).body;
  const { id } = (await theirs.post(`${app}/data`, { n: 1 })).body;
  // Longer than the idle timeout, and never idle for as long.
  for (let i = 0; i < 5; i++) {
    await sleep(500);
    for (const browser of [ours, theirs]) assert.equal((await browser.get(`${sessiond}/v1/session`)).status, 200);
  }
  await ours.post(`${app}/save`, {});
  assert.equal((await ours.get(`${sessiond}/v1/session`)).body.id, issued.id);
  // Express saves its own with the expires that it loaded: it is past, so connect-redis deletes the key.
  assert.equal((await theirs.post(`${app}/save`, {})).status, 200);
  assert.equal(await store.record(id), null);
});

test("neither judges by the stored expires", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  for (const expires of ["2001-01-01T00:00:00.000Z", "2099-01-01T00:00:00.000Z", null]) {
    await put("expires", JSON.stringify({ cookie: { originalMaxAge: 60_000, expires }, n: 1 }));
    const { status, body } = await ask("GET", `${sessiond}/v1/session?touch=never`, { cookie: cookieOf("expires") });
    assert.equal(status, 200);
    assert.ok(Math.abs(Date.parse(body.expires_at) - Date.now() - 60_000) < 2000, body.expires_at);
    assert.equal((await ask("GET", `${app}/session`, { cookie: cookieOf("expires") })).body.id, "expires");
    const ttl = await store.client.ttl("sess:expires");
    assert.ok(ttl > 50 && ttl <= 60, `${ttl}`);
  }
});

test("reserved names are refused by sessiond and lost by Express", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const names = Object.getOwnPropertyNames(Object.prototype).concat("id", "req", "touch", "resetMaxAge", "save", "reload", "destroy", "regenerate");
  const browser = new Browser();
  const issued = (await browser.post(`${sessiond}/v1/sessions`, { data: { n: 1 } })).body;
  const kept = await store.record(issued.id);
  for (const name of [...names, "cookie", "sessiond"]) {
    const keys = await store.client.dbSize();
    const json = `{"data":{${JSON.stringify(name)}:1}}`;
    const { status, body } = await ask("POST", `${sessiond}/v1/sessions`, { json: JSON.parse(json) });
    assert.deepEqual([status, body.code, body.pointer], [422, "reserved-name", `/data/${name}`]);
    assert.equal(await store.client.dbSize(), keys);
    const patched = await browser.patch(sessiond, JSON.parse(`{${JSON.stringify(name)}:1}`));
    assert.deepEqual([patched.status, patched.body.code], [422, "reserved-name"], name);
    assert.equal(await store.record(issued.id), kept);
  }
  for (const name of names) {
    await put("reserved", `{"cookie":{"originalMaxAge":60000},"n":1,${JSON.stringify(name)}:"mine"}`);
    const resolved = await ask("GET", `${sessiond}/v1/session`, { cookie: cookieOf("reserved") });
    assert.equal(resolved.status, 200);
    assert.ok((await store.record("reserved")).includes(`${JSON.stringify(name)}:"mine"`), "sessiond leaves it be");
    // A plain read, and Express writes the record without it.
    const seen = await ask("GET", `${app}/session`, { cookie: cookieOf("reserved") });
    assert.equal(seen.status, 200, name);
    assert.deepEqual(Object.keys(JSON.parse(await store.record("reserved"))), ["cookie", "n"], name);
  }
});

test("a reserved name that another writer left is in no update's way", async (t) => {
  const routes = (app) => app.post("/own", (req, res) => ((req.session.toString = "mine"), (req.session.n = 1), res.json(req.sessionID)));
  const [app, sessiond] = [await expressOn(t, store, {}, { routes }), await sessiondOn(t, store)];
  const browser = new Browser();
  const id = (await browser.post(`${app}/own`, {})).body;
  assert.match(await store.record(id), /"toString":"mine","n":1\}$/);
  const { status, body } = await browser.patch(sessiond, { n: 2 });
  assert.equal(status, 200, JSON.stringify(body));
  assert.equal(JSON.parse(await store.record(id)).n, 2);
  const again = (await browser.post(`${app}/own`, {})).body;
  assert.equal(again, id);
  assert.equal((await browser.post(`${sessiond}/v1/session/regenerate`, { user_id: "ada" })).status, 200);
});

/** What every call at sessiond says to a record that cannot be read, which stays as it is. */
async function assertUnreadable(sessiond, id, bytes, what) {
  const cookie = cookieOf(id);
  const calls = [
    ["GET", "/v1/session"],
    ["GET", "/v1/session?touch=force"],
    ["PATCH", "/v1/session/data", { json: { n: 2 }, headers: merge }],
    ["PUT", "/v1/session/data", { json: { n: 2 } }],
    ["POST", "/v1/session/touch"],
    ["POST", "/v1/session/regenerate", { json: { user_id: "ada" } }],
    ["GET", `/v1/sessions/${id}`],
  ];
  for (const [method, path, options] of calls) {
    const { status, body } = await ask(method, sessiond + path, { cookie, ...options });
    assert.deepEqual([status, body.code], [422, "unreadable-session"], `${what}: ${method} ${path}`);
    // Nothing of what is stored.
    assert.doesNotMatch(body.detail, /swordfish/);
  }
  const many = await ask("POST", `${sessiond}/v1/sessions/resolve`, { json: { cookies: [cookie] } });
  assert.deepEqual([many.status, many.body], [200, { sessions: [null], unreadable: [0] }], what);
  assert.deepEqual(await rawBytes(id), Buffer.from(bytes), what);
}

/** The bytes of a record, as they are: the client makes text of what is none. */
async function rawBytes(id) {
  const hex = "return (redis.call('GET', KEYS[1]):gsub('.', function(c) return string.format('%02x', c:byte()) end))";
  return Buffer.from(await store.client.eval(hex, { keys: [`sess:${id}`] }), "hex");
}

test("what express-session cannot read is a 500 there, and in sessiond a clear 422 that leaves it as it is", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const records = [
    "{}",
    '{"n":"swordfish"}',
    '{"cookie":null,"n":"swordfish"}',
    '{"cookie":1}',
    '{"cookie":"swordfish"}',
    "[]",
    '["swordfish"]',
    "1",
    '"swordfish"',
    "{swordfish}",
    '{"cookie":{},"n":"swordfish"',
    '{"cookie":{},"n":"swordfish"} x',
    "eyJjb29raWUiOnt9fQ==",
    Buffer.from([0x82, 0xa6, 0x63, 0x6f, 0x6f, 0x6b, 0x69, 0x65, 0x80, 0xa1, 0x6e, 0x01]),
    Buffer.from([0x1f, 0x8b, 0x08, 0x00]),
  ];
  for (const record of records) {
    await put("unreadable", record);
    const what = record.toString("latin1");
    assert.equal((await ask("GET", `${app}/session`, { cookie: cookieOf("unreadable") })).status, 500, what);
    await assertUnreadable(sessiond, "unreadable", record, what);
    // To end it is possible all the same.
    assert.equal((await ask("DELETE", `${sessiond}/v1/session`, { cookie: cookieOf("unreadable") })).status, 204);
    assert.equal(await store.record("unreadable"), null);
  }
});

test("a maxAge that is no number stops Express from answering, and is unreadable in sessiond", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const record = '{"cookie":{"originalMaxAge":"swordfish"}}';
  await put("unreadable", record);
  // It throws when it ends the answer, and again when it ends the answer of the error.
  await assert.rejects(ask("GET", `${app}/session`, { cookie: cookieOf("unreadable"), within: 500 }), { name: "TimeoutError" });
  await assertUnreadable(sessiond, "unreadable", record, record);
});

test("what express-session reads, however odd, sessiond reads too", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const records = [
    '{"cookie":{},"n":1}',
    '{"cookie":[],"n":1}',
    '{"n":1,"cookie":{"originalMaxAge":600000}}',
    ' { "cookie" : { "path" : "/" , "originalMaxAge" : 600000 } , "n" : 1 } ',
    '{"cookie":{"originalMaxAge":600000.5},"n":1}',
    '{"cookie":{"originalMaxAge":6e5},"n":1}',
    '{"cookie":{"originalMaxAge":600000,"expires":1900000000000},"n":1}',
    '{"cookie":{"originalMaxAge":600000,"sameSite":true,"partitioned":true,"priority":"high","extra":[1]},"n":1}',
    '{"cookie":{"originalMaxAge":1,"originalMaxAge":600000},"n":1}',
    '{"c\\u006fokie":{"originalMaxAge":600000},"n":1}',
  ];
  for (const record of records) {
    await put("odd", record);
    const { status, body } = await ask("GET", `${sessiond}/v1/session`, { cookie: cookieOf("odd") });
    assert.deepEqual([status, body.data], [200, { n: 1 }], record);
    assert.equal(await store.record("odd"), record);
    const seen = await ask("GET", `${app}/session`, { cookie: cookieOf("odd") });
    assert.deepEqual([seen.status, seen.body.id], [200, "odd"], record);
  }
});

test("an empty record is no session in Express, and unreadable in sessiond", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  for (const record of ["", "null"]) {
    await put("empty", record);
    const seen = await ask("GET", `${app}/session`, { cookie: cookieOf("empty") });
    assert.equal(seen.status, 200);
    assert.notEqual(seen.body.id, "empty");
    await assertUnreadable(sessiond, "empty", record, record);
  }
});

test("a key that is no string is a 500 in Express, and never one in sessiond", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  await store.client.hSet("sess:hash", { cookie: "{}" });
  assert.equal((await ask("GET", `${app}/session`, { cookie: cookieOf("hash") })).status, 500);
  const { status, body } = await ask("GET", `${sessiond}/v1/session`, { cookie: cookieOf("hash") });
  assert.deepEqual([status, body.code], [422, "unreadable-session"]);
  assert.deepEqual({ ...(await store.client.hGetAll("sess:hash")) }, { cookie: "{}" });
  // Nor does it keep others from being answered.
  await put("beside", '{"cookie":{},"n":1}');
  const many = await ask("POST", `${sessiond}/v1/sessions/resolve`, { json: { cookies: [cookieOf("hash"), cookieOf("beside")] } });
  assert.equal(many.status, 200);
});

test("a serializer of the application's own is told as unreadable", async (t) => {
  const serializer = {
    stringify: (session) => Buffer.from(JSON.stringify(session)).toString("base64"),
    parse: (text) => JSON.parse(Buffer.from(text, "base64").toString()),
  };
  const app = await expressOn(t, store, {}, { storeOptions: { serializer } });
  const sessiond = await sessiondOn(t, store);
  const browser = new Browser();
  const { id } = (await browser.post(`${app}/data`, { n: "swordfish" })).body;
  await assertUnreadable(sessiond, id, await store.record(id), "base64");
  assert.equal((await browser.get(`${app}/session`)).body.id, id);
  const { body } = await browser.get(`${sessiond}/v1/session`);
  assert.match(body.detail, /another serializer/);
});

test("text that is not Unicode is passed on by sessiond, and changed by Express only", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const browser = new Browser();
  const { id } = (await browser.post(`${app}/data`, { half: "\ud800", n: 1 })).body;
  const record = await store.record(id);
  assert.match(record, /"half":"\\ud800"/);
  assert.equal((await browser.get(`${sessiond}/v1/session`)).body.data.half, "\ud800");
  // Few languages have such text: it is neither taken nor tried to be changed.
  const { status, body } = await browser.patch(sessiond, { n: 2 });
  assert.deepEqual([status, body.code], [422, "unreadable-session"]);
  assert.equal(await store.record(id), record);
  const issued = await ask("POST", `${sessiond}/v1/sessions`, { json: { data: { half: "\ud800" } } });
  assert.deepEqual([issued.status, issued.body.code], [400, "malformed-json"]);
  assert.equal((await browser.post(`${app}/data`, { half: null })).status, 200);
  assert.equal((await browser.patch(sessiond, { n: 2 })).status, 200);
});

test("a key that is not Unicode is read by Express, and makes a record unreadable in sessiond", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const browser = new Browser();
  const { id } = (await browser.post(`${app}/data`, { "\ud800": "swordfish" })).body;
  await assertUnreadable(sessiond, id, await store.record(id), "a key");
  assert.deepEqual(dataOf((await browser.get(`${app}/session`)).body.session), { "\ud800": "swordfish" });
});

test("originalMaxAge drifts in Express, and the idle timeout in sessiond does not", async (t) => {
  const [app, sessiond] = [await expressOn(t, store, { cookie: { maxAge: 60_000 } }), await sessiondOn(t, store)];
  const browser = new Browser();
  const { id } = (await browser.post(`${sessiond}/v1/sessions`, { data: { views: 0 }, idle_timeout_ms: 60_000 })).body;
  for (let i = 0; i < 300; i++) await browser.post(`${app}/views`, {});
  const { originalMaxAge } = JSON.parse(await store.record(id)).cookie;
  assert.ok(originalMaxAge >= 59_900 && originalMaxAge <= 60_000, `${originalMaxAge}`);
  assert.equal((await browser.get(`${sessiond}/v1/session`)).body.idle_timeout_ms, 60_000);

  const record = await store.record(id);
  for (let drifted = 59_984; drifted <= 60_000; drifted++) {
    await put(id, record.replace(/"originalMaxAge":\d+/, `"originalMaxAge":${drifted}`));
    assert.equal((await browser.get(`${sessiond}/v1/session?touch=never`)).body.idle_timeout_ms, 60_000, `${drifted}`);
  }
  // That is another one, and not a drift.
  await put(id, record.replace(/"originalMaxAge":\d+/, '"originalMaxAge":30000'));
  assert.equal((await browser.get(`${sessiond}/v1/session?touch=never`)).body.idle_timeout_ms, 30_000);
});

test("connect-redis rounds its TTL up to seconds, and sessiond's is within one of it", async (t) => {
  const [app, sessiond] = [await expressOn(t, store, { cookie: { maxAge: 1500 } }), await sessiondOn(t, store)];
  const [ours, theirs] = [new Browser(), new Browser()];
  const { id } = (await theirs.post(`${app}/data`, { n: 1 })).body;
  const issued = (await ours.post(`${sessiond}/v1/sessions`, { data: { n: 1 }, idle_timeout_ms: 1500 })).body;
  const [express, here] = [await store.client.pTTL(`sess:${id}`), await store.client.pTTL(`sess:${issued.id}`)];
  assert.ok(express > 1500 && express <= 2000, `${express}`);
  assert.ok(here > 1300 && here <= 1500, `${here}`);
  assert.equal(Date.parse(issued.expires_at) - Date.parse(issued.touched_at), 1500);
  const seen = (await theirs.get(`${sessiond}/v1/session?touch=never`)).body;
  assert.ok(Math.abs(Date.parse(seen.expires_at) - Date.now() - 1500) <= 600, seen.expires_at);
});

test("without originalMaxAge Express keeps a session for a day, and sessiond's touch for its idle timeout", async (t) => {
  const app = await expressOn(t, store, { cookie: {} });
  const sessiond = await sessiondOn(t, store, "--browser-session", "true");
  const browser = new Browser();
  const { id } = (await browser.post(`${sessiond}/v1/sessions`, { data: { n: 1 } })).body;
  const left = () => store.client.ttl(`sess:${id}`);
  assert.ok((await left()) <= MAX_AGE / 1000);
  await browser.get(`${app}/session`);
  assert.ok((await left()) > 86_390, `${await left()}`);
  const seen = (await browser.get(`${sessiond}/v1/session?touch=never`)).body;
  assert.ok(Date.parse(seen.expires_at) > Date.now() + 86_390_000, seen.expires_at);
  await browser.get(`${sessiond}/v1/session?touch=force`);
  assert.ok((await left()) <= MAX_AGE / 1000, `${await left()}`);
  // With connect-redis's own option the two agree.
  const agreed = await expressOn(t, store, { cookie: {} }, { storeOptions: { ttl: MAX_AGE / 1000 } });
  await browser.get(`${agreed}/session`);
  assert.ok((await left()) <= MAX_AGE / 1000, `${await left()}`);
});

test("a key without a TTL is a live session, and sessiond's touch gives it one", async (t) => {
  const app = await expressOn(t, store, {}, { storeOptions: { disableTTL: true } });
  const sessiond = await sessiondOn(t, store);
  const browser = new Browser();
  const { id } = (await browser.post(`${app}/data`, { n: 1 })).body;
  assert.equal(await store.client.ttl(`sess:${id}`), -1);
  assert.equal((await browser.get(`${sessiond}/v1/session?touch=never`)).status, 200);
  assert.equal(await store.client.ttl(`sess:${id}`), -1);
  assert.equal((await browser.get(`${sessiond}/v1/session`)).status, 200);
  const left = await store.client.pTTL(`sess:${id}`);
  assert.ok(left > MAX_AGE - 2000 && left <= MAX_AGE + 1000, `${left}`);
});

test("an Express that does not touch is kept alive by sessiond", async (t) => {
  const app = await expressOn(t, store, {}, { storeOptions: { disableTouch: true } });
  const sessiond = await sessiondOn(t, store);
  const browser = new Browser();
  const { id } = (await browser.post(`${app}/data`, { n: 1 })).body;
  await store.client.pExpire(`sess:${id}`, MAX_AGE / 2);
  await browser.get(`${app}/session`);
  assert.ok((await store.client.pTTL(`sess:${id}`)) <= MAX_AGE / 2);
  await browser.get(`${sessiond}/v1/session`);
  assert.ok((await store.client.pTTL(`sess:${id}`)) > MAX_AGE - 2000);
});

test("an id that is gone is never taken up again", async (t) => {
  const [app, sessiond] = [await expressOn(t, store, { saveUninitialized: true }), await sessiondOn(t, store, "--save-uninitialized", "true")];
  const cookie = cookieOf("gone");
  const answers = [
    await ask("POST", `${app}/data`, { cookie, json: { n: 1 } }),
    await ask("POST", `${sessiond}/v1/sessions`, { cookie, json: { data: { n: 1 } } }),
  ];
  for (const { body } of answers) assert.notEqual(body.id, "gone");
  assert.equal((await ask("PUT", `${sessiond}/v1/session/data`, { cookie, json: { n: 1 } })).status, 401);
  assert.equal((await ask("POST", `${sessiond}/v1/session/regenerate`, { cookie })).status, 401);
  assert.equal(await store.record("gone"), null);
  assert.deepEqual(dataOf((await ask("GET", `${app}/session`, { cookie })).body.session), {});
});
