// Passport's login is sessiond's user, and the other way round.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Passport } from "passport";
import { Strategy } from "passport-local";
import { ask, Browser, dataOf, expressOn, sessiondOn, startStore } from "./worlds.js";

let store;
before(async () => (store = await startStore()));
after(() => store?.stop());

const USERS = { ada: { id: "ada", name: "Ada" }, grace: { id: "grace", name: "Grace" } };

/** An app whose users log in with name and password; `serialize` says what of a user goes into the session. */
async function passportOn(t, { serialize = (user) => user.id, find = (id) => USERS[id], keep = false } = {}) {
  const passport = new Passport();
  passport.use(new Strategy((name, password, done) => done(null, password === "secret" ? USERS[name] : false)));
  passport.serializeUser((user, done) => done(null, serialize(user)));
  passport.deserializeUser((id, done) => done(null, find(id) ?? false));
  return expressOn(t, store, {}, {
    routes(app) {
      app.use(passport.session());
      app.post("/passport", passport.authenticate("local", { keepSessionInfo: keep }), (req, res) => res.json({ id: req.sessionID }));
      app.post("/passport/logout", (req, res, next) => {
        req.logout({ keepSessionInfo: keep }, (error) => (error ? next(error) : res.json({ id: req.sessionID })));
      });
      app.get("/me", (req, res) => res.json({ id: req.sessionID, user: req.user ?? null }));
    },
  });
}

const login = (browser, app, username) => browser.post(`${app}/passport`, { username, password: "secret" });

test("a login through Passport is a user in sessiond", async (t) => {
  const [app, sessiond] = [await passportOn(t), await sessiondOn(t, store, "--user-pointer", "/passport/user")];
  const browser = new Browser();
  const anonymous = (await browser.post(`${sessiond}/v1/sessions`, { data: { cart: ["tea"] } })).body;
  const planted = browser.cookie;
  assert.equal((await browser.post(`${app}/passport`, { username: "ada", password: "wrong" })).status, 401);
  const { id } = (await login(browser, app, "ada")).body;
  assert.notEqual(id, anonymous.id);
  const { body } = await browser.get(`${sessiond}/v1/session?touch=force`);
  assert.deepEqual([body.id, body.user_id, body.data], [id, "ada", { passport: { user: "ada" } }]);
  assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie: planted })).status, 401);
  // Since it was touched it is in her list, and can be ended there.
  const { sessions } = (await ask("GET", `${sessiond}/v1/users/ada/sessions`)).body;
  assert.deepEqual(sessions.map((row) => row.id), [id]);
  assert.deepEqual((await ask("DELETE", `${sessiond}/v1/users/ada/sessions`)).body, { revoked: 1 });
  assert.equal((await browser.get(`${app}/me`)).body.user, null);
});

test("a login in sessiond is req.user in Express", async (t) => {
  const [app, sessiond] = [await passportOn(t), await sessiondOn(t, store, "--user-pointer", "/passport/user")];
  const issued = new Browser();
  const { id } = (await issued.post(`${sessiond}/v1/sessions`, { user_id: "grace" })).body;
  assert.deepEqual((await issued.get(`${app}/me`)).body, { id, user: USERS.grace });

  const browser = new Browser();
  await browser.post(`${app}/data`, { cart: ["tea"] });
  assert.equal((await browser.get(`${app}/me`)).body.user, null);
  const loggedIn = (await browser.post(`${sessiond}/v1/session/regenerate`, { user_id: "ada" })).body;
  assert.deepEqual((await browser.get(`${app}/me`)).body, { id: loggedIn.id, user: USERS.ada });
  assert.match(await store.record(loggedIn.id), /"cart":\["tea"\],"passport":\{"user":"ada"\}\}$/);
});

test("a logout through Passport takes the user from sessiond, and the other way round", async (t) => {
  const [app, sessiond] = [await passportOn(t), await sessiondOn(t, store, "--user-pointer", "/passport/user")];
  const one = new Browser();
  await one.post(`${sessiond}/v1/sessions`, { user_id: "ada" });
  const { cookie } = one;
  assert.equal((await one.post(`${app}/passport/logout`, {})).status, 200);
  assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie })).status, 401);
  assert.equal((await one.get(`${sessiond}/v1/session`)).body.user_id ?? null, null);

  const two = new Browser();
  await login(two, app, "grace");
  const kept = two.cookie;
  await two.delete(`${sessiond}/v1/session`);
  assert.equal((await ask("GET", `${app}/me`, { cookie: kept })).body.user, null);

  // Logged out, and the session goes on: without the user's data, unless it is kept.
  const three = new Browser();
  await login(three, app, "grace");
  await three.patch(sessiond, { cart: ["tea"] });
  const out = (await three.post(`${sessiond}/v1/session/regenerate`, { user_id: null, keep_data: true })).body;
  assert.deepEqual([out.user_id, out.data.cart], [null, ["tea"]]);
  assert.deepEqual((await three.get(`${app}/me`)).body, { id: out.id, user: null });
  await login(three, app, "ada");
  await three.patch(sessiond, { cart: ["tea"] });
  const next = (await three.post(`${sessiond}/v1/session/regenerate`, { user_id: "grace" })).body;
  assert.deepEqual([next.user_id, next.data], ["grace", { passport: { user: "grace" } }]);
  assert.deepEqual((await three.get(`${app}/me`)).body, { id: next.id, user: USERS.grace });
});

test("a user may be an object or a number, and the pointer leads to the id", async (t) => {
  const object = await passportOn(t, { serialize: ({ id, name }) => ({ id, name }), find: ({ id }) => USERS[id] });
  const number = await passportOn(t, { serialize: () => 7, find: (id) => (String(id) === "7" ? USERS.ada : undefined) });
  for (const [app, pointer, user_id] of [[object, "/passport/user/id", "ada"], [number, "/passport/user", "7"]]) {
    const sessiond = await sessiondOn(t, store, "--user-pointer", pointer);
    const browser = new Browser();
    await login(browser, app, "ada");
    assert.equal((await browser.get(`${sessiond}/v1/session`)).body.user_id, user_id);
    // As text, when sessiond writes it.
    const issued = new Browser();
    await issued.post(`${sessiond}/v1/sessions`, { user_id });
    assert.deepEqual((await issued.get(`${app}/me`)).body.user, USERS.ada);
  }
});

test("without the pointer Passport's user is none of sessiond's, also after a logout that keeps the session's data", async (t) => {
  const [app, sessiond] = [await passportOn(t, { keep: true }), await sessiondOn(t, store)];
  const browser = new Browser();
  await login(browser, app, "ada");
  assert.equal((await browser.get(`${sessiond}/v1/session`)).body.user_id, null);

  // keepSessionInfo carries all that it finds to the new id, what is sessiond's too.
  const bound = new Browser();
  await bound.post(`${sessiond}/v1/sessions`, { user_id: "grace", data: { cart: ["tea"] } });
  await bound.post(`${app}/passport/logout`, {});
  const { body } = await bound.get(`${sessiond}/v1/session`);
  assert.deepEqual([body.user_id, body.data.cart], ["grace", ["tea"]]);

  // With it, the user is where Passport takes them away.
  const pointed = await sessiondOn(t, store, "--user-pointer", "/passport/user");
  const safe = new Browser();
  await safe.post(`${pointed}/v1/sessions`, { user_id: "grace", data: { cart: ["tea"] } });
  await safe.post(`${app}/passport/logout`, {});
  const after = (await safe.get(`${pointed}/v1/session`)).body;
  assert.deepEqual([after.user_id, dataOf(after.data)], [null, { cart: ["tea"], passport: {} }]);
});

test("an update in sessiond cannot change Passport's user", async (t) => {
  const [app, sessiond] = [await passportOn(t), await sessiondOn(t, store, "--user-pointer", "/passport/user")];
  const browser = new Browser();
  const { id } = (await login(browser, app, "ada")).body;
  const record = await store.record(id);
  for (const passport of [{ user: "grace" }, null]) {
    const { status, body } = await browser.patch(sessiond, { passport });
    assert.deepEqual([status, body.code], [422, "user-is-bound"]);
    assert.equal(await store.record(id), record);
  }
});
