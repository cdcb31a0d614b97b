// The cookie: who signs it, who reads it in which form, and what goes with it.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { sign } from "cookie-signature";
import fc from "fast-check";
import { ask, Browser, expressOn, SECRET, sessiondOn, startStore } from "./worlds.js";

let store;
before(async () => (store = await startStore()));
after(() => store?.stop());

/** The id of the session that each world opens for this Cookie header; null when it opens none. */
async function opened(app, sessiond, cookie) {
  const express = (await ask("GET", `${app}/session`, { cookie })).body;
  const answer = await ask("GET", `${sessiond}/v1/session?touch=never`, { cookie });
  assert.ok([200, 401].includes(answer.status), `${answer.status} for ${cookie}`);
  return { express: express.session.n === undefined ? null : express.id, sessiond: answer.body.id ?? null };
}

test("both read a cookie in the same forms, and refuse it in the same", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  // An id whose signature has a + and a /, and one with neither.
  const ids = [];
  for (let i = 0; ids.length < 1; i++) if (/\+.*\/|\/.*\+/.test(sign(`id-${i}`, SECRET))) ids.push(`id-${i}`);
  for (let i = 0; ids.length < 2; i++) if (!/[+/]/.test(sign(`id-${i}`, SECRET))) ids.push(`id-${i}`);
  ids.push("with.dots.in it");
  for (const id of ids) {
    await store.client.set(`sess:${id}`, '{"cookie":{"originalMaxAge":600000},"n":1}', { expiration: { type: "EX", value: 60 } });
    const signed = sign(id, SECRET);
    const raw = `s:${signed}`;
    const encoded = encodeURIComponent(raw);
    const [before, after] = [signed.slice(0, signed.lastIndexOf(".")), signed.slice(signed.lastIndexOf(".") + 1)];
    const good = {
      encoded,
      raw,
      quoted: `"${encoded}"`,
      "raw and quoted": `"${raw}"`,
      "in spaces and tabs": ` \t ${encoded} \t `,
      "encoded in lower case": encoded.replace(/%../g, (code) => code.toLowerCase()),
      "encoded more than need be": [...raw].map((c) => `%${c.charCodeAt(0).toString(16).padStart(2, "0")}`).join(""),
      "encoded in part": `s%3A${signed}`,
    };
    const bad = {
      "padded signature": `${raw}=`,
      "padded signature, encoded": `${encoded}%3D`,
      "signature in base64url": after.replace(/\+/g, "-").replace(/\//g, "_") === after ? `${raw}A` : `s:${before}.${after.replace(/\+/g, "-").replace(/\//g, "_")}`,
      "the bare id": id,
      "without s:": signed,
      "with S:": `S:${signed}`,
      "with j:": `j:${signed}`,
      "encoded twice": encodeURIComponent(encoded),
      "quoted twice": `""${raw}""`,
      "quoted on one side": `"${raw}`,
      "in single quotes": `'${raw}'`,
      "spaces in the quotes": `" ${raw} "`,
      "quotes that are encoded": encodeURIComponent(`"${raw}"`),
      "space that is encoded": `%20${encoded}`,
      "a stray % behind": `${encoded}%`,
      "half an escape behind": `${encoded}%2`,
      "what is not UTF-8 behind": `${encoded}%ff`,
      "shortened": encoded.slice(0, -1),
      "without signature": `s:${id}`,
      "with an empty signature": `s:${id}.`,
      "with an empty id": `s:${sign("", SECRET)}`,
      "another id": `s:${id}x.${after}`,
      "another's signature": `s:${sign(id, "another secret")}`,
      "a dot more": `s:${before}..${after}`,
      "empty": "",
      "s: alone": "s:",
    };
    for (const [forms, expected] of [[good, id], [bad, null]]) {
      for (const [form, value] of Object.entries(forms)) {
        const headers = [`connect.sid=${value}`, `a=1; connect.sid=${value}; b=2`, `a=1;connect.sid =${value};;`, `=; ;connect.sid=${value}`];
        for (const header of headers) {
          const found = await opened(app, sessiond, header);
          assert.deepEqual(found, { express: expected, sessiond: expected }, `${form}: ${header}`);
        }
      }
    }
    for (const name of ["Connect.sid", "connect%2Esid", "xconnect.sid", "connect.sid."]) {
      assert.deepEqual(await opened(app, sessiond, `${name}=${encoded}`), { express: null, sessiond: null }, name);
    }
  }
});

test("both agree on 2,000 mangled cookies", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const id = "mangled";
  await store.client.set(`sess:${id}`, '{"cookie":{"originalMaxAge":600000},"n":1}', { expiration: { type: "EX", value: 60 } });
  const right = encodeURIComponent(`s:${sign(id, SECRET)}`);
  const wrong = encodeURIComponent(`s:${sign(id, "another secret")}`);
  const bit = fc.constantFrom(...['"', "%", "=", ";", " ", "\t", ".", "%22", "%3D", "%2", "s:", "s%3A", "x", ",", "\\", "connect.sid"], right, wrong);
  const piece = fc.oneof(
    fc.constantFrom(`connect.sid=${right}`, `connect.sid="${right}"`, `connect.sid=${wrong}`),
    fc.array(bit, { maxLength: 4 }).map((bits) => bits.join("")),
    fc.tuple(fc.nat(right.length), bit).map(([at, bit]) => `connect.sid=${right.slice(0, at)}${bit}${right.slice(at)}`),
  );
  const header = fc.tuple(fc.array(piece, { minLength: 1, maxLength: 3 }), fc.constantFrom(";", "; ", " ;")).map(([all, by]) => all.join(by));
  let [both, neither] = [0, 0];
  await fc.assert(
    fc.asyncProperty(header, async (cookie) => {
      const found = await opened(app, sessiond, cookie);
      // Of several of that name Express takes the first: see below.
      if (cookie.split("connect.sid").length > 2 && found.express === null) return;
      assert.equal(found.sessiond, found.express);
      if (found.express) both++;
      else neither++;
    }),
    { numRuns: 2000 },
  );
  assert.ok(both > 200 && neither > 200, `${both} opened, ${neither} not`);
});

test("of two cookies with one name Express takes the first and sessiond the first that verifies", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const [one, two] = [new Browser(), new Browser()];
  const [{ id: first }, { id: second }] = [(await one.post(`${app}/data`, { n: 1 })).body, (await two.post(`${app}/data`, { n: 2 })).body];
  const forged = "connect.sid=s%3Aforged.AAAA";
  const both = { express: first, sessiond: first };
  assert.deepEqual(await opened(app, sessiond, `${one.cookie}; ${two.cookie}`), both);
  assert.deepEqual(await opened(app, sessiond, `${one.cookie}; ${forged}`), both);
  assert.deepEqual(await opened(app, sessiond, `${forged}; ${two.cookie}`), { express: null, sessiond: second });
  // One that verifies and is over is taken by both: nothing is looked for behind it.
  await store.client.del(`sess:${first}`);
  assert.deepEqual(await opened(app, sessiond, `${one.cookie}; ${two.cookie}`), { express: null, sessiond: null });
});

test("old and new secrets: whatever one has signed the other reads", async (t) => {
  const both = { app: await expressOn(t, store, { secret: ["new", "old"] }), sessiond: await sessiondOn(t, store, "--secret", "new,old") };
  const old = { app: await expressOn(t, store, { secret: "old" }), sessiond: await sessiondOn(t, store, "--secret", "old") };
  const make = {
    app: async (browser, url) => (await browser.post(`${url}/data`, { n: 1 })).body.id,
    sessiond: async (browser, url) => (await browser.post(`${url}/v1/sessions`, { data: { n: 1 } })).body.id,
  };
  for (const maker of ["app", "sessiond"]) {
    const browser = new Browser();
    const id = await make[maker](browser, old[maker]);
    assert.deepEqual(await opened(both.app, both.sessiond, browser.cookie), { express: id, sessiond: id });
    // It stays signed as it was until a cookie is due; then the first secret signs it.
    const before = browser.cookie;
    await browser.get(`${both.sessiond}/v1/session`);
    await browser.get(`${both.app}/session`);
    assert.equal(browser.cookie, before);
    if (maker === "app") await browser.patch(both.sessiond, { n: 2 });
    else await browser.post(`${both.app}/data`, { n: 2 });
    assert.equal(decodeURIComponent(browser.cookie), `connect.sid=s:${sign(id, "new")}`);
    assert.deepEqual(await opened(both.app, both.sessiond, browser.cookie), { express: id, sessiond: id });
    assert.deepEqual(await opened(old.app, old.sessiond, browser.cookie), { express: null, sessiond: null });
  }
});

test("cookie attributes are the same in the record and in Set-Cookie", async (t) => {
  const kinds = [
    [{ secure: true }, ["--cookie-secure", "true"]],
    [{ sameSite: "strict" }, ["--cookie-same-site", "strict"]],
    [{ sameSite: "none", secure: true }, ["--cookie-same-site", "none", "--cookie-secure", "true"]],
    [{ partitioned: true, secure: true }, ["--cookie-partitioned", "true", "--cookie-secure", "true"]],
    [{ priority: "low" }, ["--cookie-priority", "low"]],
    [{ priority: "high", httpOnly: false }, ["--cookie-priority", "high", "--cookie-http-only", "false"]],
    [{ domain: "shop.example.com", path: "/" }, ["--cookie-domain", "shop.example.com"]],
    [{ path: "/data" }, ["--cookie-path", "/data"]],
    [
      { domain: "example.com", path: "/", secure: true, partitioned: true, priority: "medium", sameSite: "strict" },
      ["--cookie-domain", "example.com", "--cookie-secure", "true", "--cookie-partitioned", "true", "--cookie-priority", "medium", "--cookie-same-site", "strict"],
    ],
  ];
  const mask = (text) =>
    text
      .replace(/connect.sid=[^;]*/, "")
      .replace(/(Expires=)[^;]*/, "$1")
      .replace(/("expires":")[^"]*/, "$1")
      // Express loses a millisecond now and then.
      .replace(/("originalMaxAge":)(600000|5999[89]\d)\b/, "$1");
  for (const [cookie, flags] of kinds) {
    const app = await expressOn(t, store, { cookie: { maxAge: 600_000, sameSite: "lax", ...cookie }, proxy: true });
    const sessiond = await sessiondOn(t, store, ...flags);
    const https = { "x-forwarded-proto": "https" };
    const express = await ask("POST", `${app}/data`, { json: { n: 1 }, headers: https });
    const ours = await ask("POST", `${sessiond}/v1/sessions`, { json: { data: { n: 1 } } });
    assert.equal(mask(ours.setCookies[0]), mask(express.setCookies[0]));
    const records = [await store.record(ours.body.id), await store.record(express.body.id)];
    assert.equal(...records.map((record) => mask(record.replace(/,"sessiond":\{[^}]*\}/, ""))));
    // Express's own cookie object, from what sessiond wrote.
    const cookieOf = async (id) => mask(JSON.stringify(JSON.parse(await store.record(id)).cookie));
    const before = await cookieOf(ours.body.id);
    const sent = ours.setCookies[0].split(";")[0];
    const saved = await ask("POST", `${app}/data`, { json: { n: 2 }, cookie: sent, headers: https });
    assert.equal(saved.body.id, ours.body.id);
    assert.equal(await cookieOf(ours.body.id), before);
    assert.equal(mask(saved.setCookies[0]), mask(ours.setCookies[0]));
  }
});

test("auto attributes are settled in the record, and sessiond reads it", async (t) => {
  const cookie = { secure: "auto", sameSite: "auto", maxAge: 600_000 };
  const [app, sessiond] = [await expressOn(t, store, { cookie, proxy: true }), await sessiondOn(t, store)];
  for (const [proto, secure, sameSite] of [["http", false, "lax"], ["https", true, "none"]]) {
    const { body, setCookies } = await ask("POST", `${app}/data`, { json: { n: 1 }, headers: { "x-forwarded-proto": proto } });
    const stored = JSON.parse(await store.record(body.id)).cookie;
    assert.deepEqual([stored.secure, stored.sameSite], [secure, sameSite]);
    assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie: setCookies[0].split(";")[0] })).body.id, body.id);
  }
});

test("a Secure cookie is kept back by Express over plain HTTP, and always answered by sessiond", async (t) => {
  const cookie = { secure: true, maxAge: 600_000 };
  const [app, sessiond] = [await expressOn(t, store, { cookie, proxy: true }), await sessiondOn(t, store, "--cookie-secure", "true")];
  const plain = await ask("POST", `${app}/data`, { json: { n: 1 } });
  assert.deepEqual(plain.setCookies, []);
  // Saved for nobody: no browser has its cookie.
  assert.equal(await store.client.exists(`sess:${plain.body.id}`), 1);
  const proxied = await ask("POST", `${app}/data`, { json: { n: 1 }, headers: { "x-forwarded-proto": "https, http" } });
  assert.match(proxied.setCookies[0], /; Secure/);
  // The caller passes it on over a connection that sessiond does not see.
  assert.match((await ask("POST", `${sessiond}/v1/sessions`, { json: { data: { n: 1 } } })).setCookies[0], /; Secure/);
});

test("Express passes over requests outside of the cookie's path, and sessiond does not see their path", async (t) => {
  const app = await expressOn(t, store, { cookie: { path: "/data", maxAge: 600_000 } });
  const sessiond = await sessiondOn(t, store, "--cookie-path", "/data");
  const browser = new Browser();
  const { id } = (await browser.post(`${app}/data`, { n: 1 })).body;
  assert.equal((await browser.get(`${app}/session`)).body.session, null);
  assert.equal((await browser.get(`${sessiond}/v1/session`)).body.id, id);
});

test("combinations that browsers drop are taken by Express and refused by sessiond", async (t) => {
  const app = await expressOn(t, store, { cookie: { sameSite: "none", maxAge: 600_000 } });
  assert.match((await ask("POST", `${app}/data`, { json: { n: 1 } })).setCookies[0], /SameSite=None$/);
  for (const flags of [["--cookie-same-site", "none"], ["--cookie-partitioned", "true"], ["--cookie-name", "__Host-sid"]]) {
    await assert.rejects(sessiondOn(t, store, ...flags), /needs --cookie-secure true/);
  }
});
