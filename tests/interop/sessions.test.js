// A session is one session in both worlds, from its first byte to its end.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ask, Browser, dataOf, drifted, expressOn, MAX_AGE, sessiondOn, startStore } from "./worlds.js";

let store;
before(async () => (store = await startStore()));
after(() => store?.stop());

const TRIVIAL = /^\{"cookie":\{"originalMaxAge":(?:600000|5999[89]\d),"expires":"[^"]{24}","httpOnly":true,"path":"\/","sameSite":"lax"\}/;

test("a session that Express made is read by sessiond", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store, "--user-pointer", "/user/id")];
  const browser = new Browser();
  const { id } = (await browser.post(`${app}/data`, { user: { id: "ada", name: "Ada" }, cart: ["tea"] })).body;
  const { status, body } = await browser.get(`${sessiond}/v1/session`);
  const expiresAt = Date.now() + (await store.client.pTTL(`sess:${id}`));

  assert.equal(status, 200);
  const { touched_at, expires_at, idle_timeout_ms, ...rest } = body;
  assert.ok(drifted(idle_timeout_ms, MAX_AGE), `${idle_timeout_ms}`);
  assert.deepEqual(rest, {
    id,
    user_id: "ada",
    data: { user: { id: "ada", name: "Ada" }, cart: ["tea"] },
    created_at: null,
    lifetime_ends_at: null,
    client: null,
  });
  assert.ok(Math.abs(Date.parse(expires_at) - expiresAt) <= 1000, `${expires_at}`);
  assert.ok(Math.abs(Date.parse(expires_at) - Date.parse(touched_at) - MAX_AGE) <= 1000, `${touched_at}`);
});

test("a session that sessiond issued is read by Express", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store, "--user-pointer", "/user/id")];
  const browser = new Browser();
  const issued = await browser.post(`${sessiond}/v1/sessions`, { user_id: "ada", data: { cart: ["tea"] } });
  assert.equal(issued.status, 201);
  const { id } = issued.body;
  const record = await store.record(id);
  const { cookie, sessiond: ours, ...data } = JSON.parse(record);
  // What Express writes at the same place, for the same options.
  assert.match(record, TRIVIAL);
  assert.equal(cookie.expires, issued.body.expires_at);
  assert.deepEqual(Object.keys(JSON.parse(record)).slice(0, 2), ["cookie", "sessiond"]);
  assert.equal(ours.created_at, Date.parse(issued.body.created_at));

  const seen = await browser.get(`${app}/session`);
  assert.equal(seen.body.id, id);
  assert.deepEqual(dataOf(seen.body.session), data);
  assert.deepEqual(data, { cart: ["tea"], user: { id: "ada" } });
  assert.deepEqual(seen.setCookies, []);
  assert.equal(await store.record(id), record, "Express's plain read rewrites nothing");
});

test("a counter goes up in both", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const browser = new Browser();
  for (let views = 1; views <= 20; views++) {
    if (views % 2) {
      assert.equal((await browser.post(`${app}/views`, {})).body, views);
    } else {
      assert.equal((await browser.patch(sessiond, { views })).status, 200);
      assert.deepEqual((await browser.get(`${sessiond}/v1/session`)).body.data, { views });
    }
  }
});

test("each sees what the other changes", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const browser = new Browser();
  const { id } = (await browser.post(`${app}/data`, { theme: "dark", cart: ["tea"] })).body;
  const patched = await browser.patch(sessiond, { theme: null, cart: ["tea", "milk"], note: "ü\u2028" });
  assert.deepEqual(patched.body.data, { cart: ["tea", "milk"], note: "ü\u2028" });
  assert.deepEqual(dataOf((await browser.get(`${app}/session`)).body.session), patched.body.data);
  await browser.post(`${app}/data`, { note: null, seen: true });
  const { body } = await browser.get(`${sessiond}/v1/session`);
  assert.deepEqual([body.id, body.data], [id, { cart: ["tea", "milk"], seen: true }]);
});

test("a login in sessiond ends the old session in Express", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store, "--user-pointer", "/user/id")];
  const browser = new Browser();
  const { id: before } = (await browser.post(`${app}/data`, { cart: ["tea"] })).body;
  const old = browser.cookie;
  const { id } = (await browser.post(`${sessiond}/v1/session/regenerate`, { user_id: "ada" })).body;
  assert.notEqual(id, before);
  assert.equal(await store.record(before), null);

  const seen = (await browser.get(`${app}/session`)).body;
  assert.deepEqual([seen.id, dataOf(seen.session)], [id, { cart: ["tea"], user: { id: "ada" } }]);
  const planted = (await ask("GET", `${app}/session`, { cookie: old })).body;
  assert.deepEqual(dataOf(planted.session), {}, "the old cookie opens nothing");
  assert.ok(![before, id].includes(planted.id));
});

test("a login in Express ends the old session in sessiond", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store, "--user-pointer", "/user/id")];
  const browser = new Browser();
  const issued = (await browser.post(`${sessiond}/v1/sessions`, { data: { cart: ["tea"] } })).body;
  const old = browser.cookie;
  const { id } = (await browser.post(`${app}/login`, { id: "ada" })).body;
  assert.equal(await store.record(issued.id), null);

  const { body } = await browser.get(`${sessiond}/v1/session`);
  // Express's regenerate begins with an empty session.
  assert.deepEqual([body.id, body.user_id, body.data], [id, "ada", { user: { id: "ada" } }]);
  assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie: old })).status, 401);
});

test("a logout in either ends the session in both", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  for (const makes of ["express", "sessiond"]) {
    for (const ends of ["express", "sessiond"]) {
      const browser = new Browser();
      const { id } =
        makes === "express"
          ? (await browser.post(`${app}/data`, { n: 1 })).body
          : (await browser.post(`${sessiond}/v1/sessions`, { data: { n: 1 } })).body;
      const { cookie } = browser;
      if (ends === "express") await browser.post(`${app}/logout`, {});
      else assert.equal((await browser.delete(`${sessiond}/v1/session`)).status, 204);
      assert.equal(await store.record(id), null);
      assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie })).status, 401, `${makes}, ${ends}`);
      assert.notEqual((await ask("GET", `${app}/session`, { cookie })).body.id, id, `${makes}, ${ends}`);
    }
  }
});

test("a logout clears the cookie in sessiond and not in Express", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const browser = new Browser();
  await browser.post(`${app}/data`, { n: 1 });
  assert.deepEqual((await browser.post(`${app}/logout`, {})).setCookies, []);
  const [line] = (await browser.delete(`${sessiond}/v1/session`)).setCookies;
  assert.equal(line, "connect.sid=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; SameSite=Lax");
  assert.equal(browser.cookie, "");
});

test("unset destroy ends the session in sessiond", async (t) => {
  const routes = (app) => app.post("/unset", (req, res) => ((req.session = null), res.end()));
  const app = await expressOn(t, store, { unset: "destroy" }, { routes });
  const sessiond = await sessiondOn(t, store);
  const browser = new Browser();
  await browser.post(`${sessiond}/v1/sessions`, { data: { n: 1 } });
  await browser.post(`${app}/unset`, {});
  assert.equal((await browser.get(`${sessiond}/v1/session`)).status, 401);
});

test("a resolve leaves Express's record as it is, to the byte", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store, "--user-pointer", "/user/id")];
  const browser = new Browser();
  const { id } = (await browser.post(`${app}/data`, { user: { id: "ada" }, note: "\u2028\u00e9 <&>", n: 1e21, zero: -0 })).body;
  const record = await store.record(id);
  for (const query of ["?touch=never", "", "?touch=force"]) {
    // So old that a touch is due.
    await store.client.pExpire(`sess:${id}`, MAX_AGE / 2);
    const { status, body } = await browser.get(`${sessiond}/v1/session${query}`);
    assert.equal(status, 200);
    assert.equal(await store.record(id), record);
    const left = await store.client.pTTL(`sess:${id}`);
    assert.equal(left > MAX_AGE - 5000, query !== "?touch=never", `${query}: ${left}`);
    assert.equal(body.user_id, "ada");
  }
  assert.equal((await browser.post(`${sessiond}/v1/session/touch`)).status, 200);
  await browser.post(`${sessiond}/v1/sessions/resolve`, { cookies: [browser.cookie] });
  assert.equal(await store.record(id), record);
});

test("an update keeps what Express wrote into cookie", async (t) => {
  const cookie = { maxAge: MAX_AGE, path: "/", sameSite: true, priority: "high", domain: "example.com" };
  const [app, sessiond] = [await expressOn(t, store, { cookie }), await sessiondOn(t, store)];
  const browser = new Browser();
  const { id } = (await browser.post(`${app}/data`, { a: 1 })).body;
  const before = await store.record(id);
  const { body } = await browser.patch(sessiond, { b: 2 });
  const expected = before
    .replace(/"expires":"[^"]*"/, `"expires":"${body.expires_at}"`)
    .replace(/"a":1\}$/, '"a":1,"b":2}');
  assert.equal(await store.record(id), expected);
});

test("what sessiond keeps in a record survives Express", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const browser = new Browser();
  const client = { ip: "192.0.2.7", user_agent: "Mozilla/5.0", label: "Ada's phone" };
  const issued = (await browser.post(`${sessiond}/v1/sessions`, { user_id: "ada", data: { n: 1 }, client })).body;
  const ours = JSON.parse(await store.record(issued.id)).sessiond;
  await browser.post(`${app}/data`, { n: 2 });
  const record = await store.record(issued.id);
  assert.match(record, TRIVIAL);
  assert.ok(record.includes(`"sessiond":${JSON.stringify(ours)}`), record);
  const { body } = await browser.get(`${sessiond}/v1/session`);
  for (const name of ["id", "user_id", "created_at", "lifetime_ends_at", "idle_timeout_ms", "client"]) {
    assert.deepEqual(body[name], issued[name], name);
  }
  assert.deepEqual(body.data, { n: 2 });
});

test("a lifetime ends a session that Express keeps alive", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store)];
  const issued = await ask("POST", `${sessiond}/v1/sessions`, { json: { data: { n: 1 }, lifetime_ms: 1000 } });
  // By hand: an Expires has no milliseconds, so the browser may let go of it sooner.
  const cookie = issued.setCookies[0].split(";")[0];
  assert.equal((await ask("POST", `${app}/views`, { cookie, json: {} })).status, 200);
  await new Promise((resolve) => setTimeout(resolve, 1100));
  assert.equal((await ask("GET", `${app}/session`, { cookie })).body.id, issued.body.id, "Express knows of no lifetime");
  assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie })).status, 401);
});

test("rolling moves the cookie's expiry in both, and without it neither does", async (t) => {
  for (const rolling of [true, false]) {
    const app = await expressOn(t, store, { rolling });
    const sessiond = await sessiondOn(t, store, "--rolling", String(rolling));
    for (const maker of [`${app}/data`, `${sessiond}/v1/sessions`]) {
      const browser = new Browser();
      const { id } = (await browser.post(maker, { data: { n: 1 } })).body;
      for (const url of [`${app}/session`, `${sessiond}/v1/session?touch=force`]) {
        await store.client.pExpire(`sess:${id}`, MAX_AGE / 2);
        const { setCookies } = await browser.get(url);
        assert.equal(setCookies.length, rolling ? 1 : 0, url);
        // The session is extended in any case.
        assert.ok((await store.client.pTTL(`sess:${id}`)) > MAX_AGE - 5000, url);
        if (!rolling) continue;
        const [, expires] = setCookies[0].match(/; Expires=([^;]*)/);
        assert.ok(Math.abs(Date.parse(expires) - Date.now() - MAX_AGE) < 2000, setCookies[0]);
      }
    }
  }
});

test("rolling sets the cookie in Express each time and in sessiond when a touch is written", async (t) => {
  const [app, sessiond] = [await expressOn(t, store, { rolling: true }), await sessiondOn(t, store)];
  const browser = new Browser();
  await browser.post(`${sessiond}/v1/sessions`, { data: { n: 1 } });
  assert.equal((await browser.get(`${app}/session`)).setCookies.length, 1);
  assert.equal((await browser.get(`${sessiond}/v1/session`)).setCookies.length, 0);
});

test("a change of the data sets a cookie that expires in both", async (t) => {
  const [app, sessiond] = [await expressOn(t, store), await sessiondOn(t, store, "--rolling", "false")];
  const browser = new Browser();
  await browser.post(`${app}/data`, { n: 1 });
  const [express] = (await browser.post(`${app}/data`, { n: 2 })).setCookies;
  const [ours] = (await browser.patch(sessiond, { n: 3 })).setCookies;
  const mask = (line) => line.replace(/Expires=[^;]*/, "Expires=…");
  assert.equal(mask(ours), mask(express));
});

test("a session without maxAge ends with the browser in both", async (t) => {
  const app = await expressOn(t, store, { cookie: {}, rolling: true });
  const sessiond = await sessiondOn(t, store, "--browser-session", "true");
  const attempt = new Browser();
  const made = await attempt.post(`${app}/data`, { n: 1 });
  assert.doesNotMatch(made.setCookies[0], /Expires|Max-Age/);
  assert.ok((await store.record(made.body.id)).startsWith('{"cookie":{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/"}'));
  const resolved = await attempt.get(`${sessiond}/v1/session?touch=force`);
  // Express says nothing of an idle timeout, so it is the service's own.
  assert.equal(resolved.body.idle_timeout_ms, MAX_AGE);
  assert.doesNotMatch(resolved.setCookies.join(), /Expires|Max-Age/);

  const browser = new Browser();
  const issued = await browser.post(`${sessiond}/v1/sessions`, { data: { n: 1 } });
  assert.doesNotMatch(issued.setCookies[0], /Expires|Max-Age/);
  const record = await store.record(issued.body.id);
  assert.ok(record.startsWith('{"cookie":{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/"'), record);
  const seen = await browser.get(`${app}/session`);
  assert.equal(seen.body.id, issued.body.id);
  assert.doesNotMatch(seen.setCookies[0], /Expires|Max-Age/);
  assert.equal((await browser.get(`${sessiond}/v1/session`)).body.idle_timeout_ms, MAX_AGE);
});

test("a maxAge that Express gives one session rules in sessiond", async (t) => {
  const routes = (app) => app.post("/remember", (req, res) => ((req.session.cookie.maxAge = 7_200_000), (req.session.n = 2), res.end()));
  const [app, sessiond] = [await expressOn(t, store, {}, { routes }), await sessiondOn(t, store)];
  const browser = new Browser();
  const { id } = (await browser.post(`${sessiond}/v1/sessions`, { data: { n: 1 } })).body;
  await browser.post(`${app}/remember`, {});
  const { body, setCookies } = await browser.get(`${sessiond}/v1/session?touch=force`);
  assert.ok(drifted(body.idle_timeout_ms, 7_200_000), `${body.idle_timeout_ms}`);
  assert.ok((await store.client.pTTL(`sess:${id}`)) > 7_195_000);
  assert.ok(Date.parse(setCookies[0].match(/Expires=([^;]*)/)[1]) > Date.now() + 7_190_000);
});

test("saveUninitialized says in both whether an empty session is stored", async (t) => {
  for (const save of [false, true]) {
    const app = await expressOn(t, store, { saveUninitialized: save });
    const sessiond = await sessiondOn(t, store, "--save-uninitialized", String(save));
    for (const [method, url, status] of [["GET", `${app}/`, 200], ["POST", `${sessiond}/v1/sessions`, save ? 201 : 204]]) {
      const keys = await store.client.dbSize();
      const answer = await ask(method, url);
      assert.equal(answer.status, status);
      assert.equal(answer.setCookies.length, save ? 1 : 0);
      assert.equal((await store.client.dbSize()) - keys, save ? 1 : 0);
    }
  }
});

test("resave says in both whether what is unchanged is written", async (t) => {
  for (const resave of [false, true]) {
    const app = await expressOn(t, store, { resave });
    const sessiond = await sessiondOn(t, store, "--resave", String(resave));
    for (const again of [(browser) => browser.get(`${app}/`), (browser) => browser.patch(sessiond, { n: 1 })]) {
      const browser = new Browser();
      const { id } = (await browser.post(`${sessiond}/v1/sessions`, { data: { n: 1 } })).body;
      const record = await store.record(id);
      await new Promise((resolve) => setTimeout(resolve, 5));
      assert.equal((await again(browser)).status, 200);
      assert.equal((await store.record(id)) !== record, resave);
    }
  }
});

test("the store's prefix and the cookie's name are one's own", async (t) => {
  const app = await expressOn(t, store, { name: "shop.sid" }, { storeOptions: { prefix: "shop:session:" } });
  const sessiond = await sessiondOn(t, store, "--key-prefix", "shop:session:", "--cookie-name", "shop.sid");
  const browser = new Browser();
  const { id } = (await browser.post(`${app}/data`, { n: 1 })).body;
  assert.equal((await browser.get(`${sessiond}/v1/session`)).body.id, id);
  assert.equal(await store.client.exists(`shop:session:${id}`), 1);
  const issued = new Browser();
  await issued.post(`${sessiond}/v1/sessions`, { data: { n: 2 } });
  assert.deepEqual(dataOf((await issued.get(`${app}/session`)).body.session), { n: 2 });
});

test("ids of the application's own making name the same session in both", async (t) => {
  const ids = ["a.b.c", "user/ada 1", "ünï ☕", "100%", "a:b;c,d=e", "..", '"quoted"', "x".repeat(256)];
  let next;
  const app = await expressOn(t, store, { genid: () => next });
  const sessiond = await sessiondOn(t, store);
  for (next of ids) {
    const browser = new Browser();
    await browser.post(`${app}/data`, { n: 1 });
    const { status, body } = await browser.get(`${sessiond}/v1/session`);
    assert.deepEqual([status, body.id, body.data], [200, next, { n: 1 }]);
    if (next !== "..") {
      // A URL cannot say this one: clients take it for the folder above.
      assert.equal((await ask("GET", `${sessiond}/v1/sessions/${encodeURIComponent(next)}`)).body.id, next);
    }
    assert.equal((await browser.patch(sessiond, { n: 2 })).status, 200);
    assert.deepEqual(dataOf((await browser.get(`${app}/session`)).body.session), { n: 2 });
  }
});

test("ids of more than 256 bytes, or with control characters, open nothing in sessiond", async (t) => {
  let next;
  const app = await expressOn(t, store, { genid: () => next });
  const sessiond = await sessiondOn(t, store);
  for (next of ["x".repeat(257), "ü".repeat(129), "a\u0000b", "a\nb", "a\u0085b"]) {
    const browser = new Browser();
    await browser.post(`${app}/data`, { n: 1 });
    assert.equal((await browser.get(`${app}/session`)).body.id, next);
    assert.equal((await browser.get(`${sessiond}/v1/session`)).status, 401);
  }
});
