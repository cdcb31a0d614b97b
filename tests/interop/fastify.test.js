// A second framework: @fastify/session, over connect-redis.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import cookie from "@fastify/cookie";
import session from "@fastify/session";
import { RedisStore } from "connect-redis";
import Fastify from "fastify";
import { ask, Browser, dataOf, expressOn, MAX_AGE, sessiondOn, startStore } from "./worlds.js";

let store;
before(async () => (store = await startStore()));
after(() => store?.stop());

// Shorter ones @fastify/session refuses.
const SECRET = "0123456789abcdef0123456789abcdef";

async function fastifyOn(t, options = {}) {
  const app = Fastify();
  await app.register(cookie);
  await app.register(session, {
    secret: SECRET,
    cookieName: "connect.sid",
    cookiePrefix: "s:",
    saveUninitialized: false,
    cookie: { secure: false, maxAge: MAX_AGE, sameSite: "lax" },
    store: new RedisStore({ client: store.client }),
    ...options,
  });
  app.get("/session", async ({ session }) => ({ id: session.sessionId, session: JSON.parse(JSON.stringify(session)) }));
  app.post("/data", async ({ session, body }) => {
    for (const [name, value] of Object.entries(body)) session.set(name, value);
    return { id: session.sessionId };
  });
  app.post("/views", async ({ session }) => (session.views = (session.views ?? 0) + 1));
  app.post("/login", async ({ session, body }, reply) => {
    await session.regenerate();
    reply.request.session.user = body;
    return { id: reply.request.session.sessionId };
  });
  app.post("/logout", async ({ session }) => (await session.destroy(), {}));
  t.after(() => app.close());
  return app.listen({ port: 0, host: "127.0.0.1" });
}

const flags = ["--secret", SECRET, "--user-pointer", "/user/id"];

test("Fastify's cookie has no s: of its own, and so is none of express-session's", async (t) => {
  const [fastify, express] = [await fastifyOn(t, { cookiePrefix: "" }), await expressOn(t, store, { secret: SECRET })];
  const sessiond = await sessiondOn(t, store, ...flags);
  const browser = new Browser();
  const { id } = (await browser.post(`${fastify}/data`, { n: 1 })).body;
  // The same but for the prefix: id, dot, and the same signature.
  assert.match(decodeURIComponent(browser.cookie), new RegExp(`^connect\\.sid=${id}\\.[A-Za-z0-9+/]{43}$`));
  assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie: browser.cookie })).status, 401);
  assert.notEqual((await ask("GET", `${express}/session`, { cookie: browser.cookie })).body.id, id);
  const prefixed = browser.cookie.replace("=", "=s%3A");
  assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie: prefixed })).body.id, id);
});

test("a session that Fastify made is read by sessiond, to the byte", async (t) => {
  const [fastify, sessiond] = [await fastifyOn(t), await sessiondOn(t, store, ...flags)];
  const browser = new Browser();
  const { id } = (await browser.post(`${fastify}/data`, { user: { id: "ada" }, n: 1 })).body;
  const record = await store.record(id);
  // Other fields in another order: what is common to both is enough.
  assert.match(record, /^\{"cookie":\{"expires":"[^"]+","originalMaxAge":600000,"sameSite":"lax","secure":false,"path":"\/","httpOnly":true,"domain":null\},"user":\{"id":"ada"\},"n":1\}$/);
  const { status, body } = await browser.get(`${sessiond}/v1/session?touch=force`);
  assert.equal(status, 200);
  assert.deepEqual([body.id, body.user_id, body.data, body.idle_timeout_ms], [id, "ada", { user: { id: "ada" }, n: 1 }, MAX_AGE]);
  assert.equal(await store.record(id), record);
});

test("a session that sessiond issued is read by Fastify, and what is sessiond's survives", async (t) => {
  const [fastify, sessiond] = [await fastifyOn(t), await sessiondOn(t, store, ...flags)];
  const browser = new Browser();
  const issued = (await browser.post(`${sessiond}/v1/sessions`, { user_id: "ada", data: { n: 1 } })).body;
  const ours = JSON.parse(await store.record(issued.id)).sessiond;
  const { body } = await browser.get(`${fastify}/session`);
  assert.deepEqual([body.id, dataOf(body.session)], [issued.id, { n: 1, user: { id: "ada" } }]);
  await browser.post(`${fastify}/data`, { n: 2 });
  assert.deepEqual(JSON.parse(await store.record(issued.id)).sessiond, ours);
  const seen = (await browser.get(`${sessiond}/v1/session`)).body;
  assert.deepEqual([seen.user_id, seen.data.n, seen.created_at], ["ada", 2, issued.created_at]);
});

test("Fastify, Express and sessiond count, log in and log out in one session", async (t) => {
  const [fastify, express] = [await fastifyOn(t), await expressOn(t, store, { secret: SECRET })];
  const sessiond = await sessiondOn(t, store, ...flags);
  const browser = new Browser();
  for (let views = 1; views <= 9; views++) {
    if (views % 3 === 1) assert.equal((await browser.post(`${fastify}/views`, {})).text, String(views));
    else if (views % 3 === 2) assert.equal((await browser.post(`${express}/views`, {})).body, views);
    else assert.deepEqual((await browser.patch(sessiond, { views })).body.data, { views });
  }
  let old = browser.cookie;
  const { id } = (await browser.post(`${fastify}/login`, { id: "ada" })).body;
  assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie: old })).status, 401);
  const { body } = await browser.get(`${sessiond}/v1/session`);
  assert.deepEqual([body.id, body.user_id], [id, "ada"]);

  old = browser.cookie;
  const again = (await browser.post(`${sessiond}/v1/session/regenerate`, { user_id: "grace" })).body;
  assert.deepEqual((await browser.get(`${fastify}/session`)).body.session.user, { id: "grace" });
  assert.notEqual((await ask("GET", `${fastify}/session`, { cookie: old })).body.id, id);

  old = browser.cookie;
  await browser.post(`${fastify}/logout`, {});
  assert.equal(await store.record(again.id), null);
  assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie: old })).status, 401);

  const last = new Browser();
  await last.post(`${fastify}/data`, { n: 1 });
  old = last.cookie;
  await last.delete(`${sessiond}/v1/session`);
  assert.deepEqual(dataOf((await ask("GET", `${fastify}/session`, { cookie: old })).body.session), {});
});

test("Fastify judges by the stored expires, which sessiond's touch moves in the records it made", async (t) => {
  const [fastify, express] = [await fastifyOn(t), await expressOn(t, store, { secret: SECRET })];
  const sessiond = await sessiondOn(t, store, ...flags);
  const past = new Date(Date.now() - 1000).toISOString();
  const age = async (id) => {
    const record = (await store.record(id)).replace(/"expires":"[^"]*"/, `"expires":"${past}"`);
    await store.client.set(`sess:${id}`, record, { expiration: { type: "PX", value: MAX_AGE / 2 } });
  };
  const ours = new Browser();
  const issued = (await ours.post(`${sessiond}/v1/sessions`, { data: { n: 1 } })).body;
  await age(issued.id);
  await ours.get(`${sessiond}/v1/session`);
  assert.equal((await ours.get(`${fastify}/session`)).body.id, issued.id);

  // One that Express made is touched without a rewrite, by Express and by sessiond: live to both, over for Fastify.
  const theirs = new Browser();
  const { id } = (await theirs.post(`${express}/data`, { n: 1 })).body;
  await age(id);
  assert.equal((await theirs.get(`${express}/session`)).body.id, id);
  assert.equal((await theirs.get(`${sessiond}/v1/session`)).status, 200);
  assert.notEqual((await theirs.get(`${fastify}/session`)).body.id, id);
});
