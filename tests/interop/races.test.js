// Express reads a session when a request begins and saves it, blindly, when it ends: what that can do to sessiond, and
// what it cannot. For sessiond with --express-writes.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomInt } from "node:crypto";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { binary } from "../common/sessiond.mjs";
import { ask, Browser, expressOn, MAX_AGE, SECRET, sessiondOn, startStore } from "./worlds.js";

let store;
before(async () => (store = await startStore()));
after(() => store?.stop());

const FLAGS = ["--express-writes", "--user-pointer", "/user/id"];
const merge = { "content-type": "application/merge-patch+json" };
const tombstone = (id) => store.client.pTTL(`{sess:${id}}:revoked`);

/** An Express app with a route that changes its session, and ends when the test says so. */
async function slowOn(t, options) {
  const waiting = new Map();
  const routes = (app) =>
    app.post("/slow/:gate", async (req, res) => {
      Object.assign(req.session, req.body);
      const { arrive, opened } = waiting.get(req.params.gate);
      arrive();
      await opened;
      res.json({ id: req.sessionID });
    });
  const url = await expressOn(t, store, options, { routes });
  let gates = 0;
  return {
    url,
    /** Begins a slow request, and waits until it has read its session. `end` lets it save, and waits for its answer. */
    async begin(cookie, json) {
      const gate = `${gates++}`;
      let arrive, open;
      const arrived = new Promise((resolve) => (arrive = resolve));
      waiting.set(gate, { arrive, opened: new Promise((resolve) => (open = resolve)) });
      const answer = ask("POST", `${url}/slow/${gate}`, { cookie, json });
      await Promise.race([arrived, answer]);
      return { end: () => (open(), answer) };
    },
  };
}

/** A session of this user, made in either world. */
async function made(maker, app, sessiond, user) {
  const browser = new Browser();
  const { body } =
    maker === "express"
      ? await browser.post(`${app.url}/data`, { user: { id: user }, n: 0 })
      : await browser.post(`${sessiond}/v1/sessions`, { user_id: user, data: { n: 0 } });
  return { browser, id: body.id, cookie: browser.cookie };
}

/** Express has brought the key back; then sessiond refuses it, and it is gone. */
async function assertRefused(sessiond, { id, cookie }, look = () => ask("GET", `${sessiond}/v1/session`, { cookie })) {
  assert.notEqual(await store.record(id), null, "Express brings the key back");
  assert.equal((await look()).status, 401);
  assert.equal(await store.record(id), null);
}

test("Express's late save does not bring back what sessiond has revoked", async (t) => {
  const [app, sessiond] = [await slowOn(t), await sessiondOn(t, store, ...FLAGS)];
  for (const maker of ["express", "sessiond"]) {
    const session = await made(maker, app, sessiond, "ada");
    const { id, cookie } = session;
    const slow = await app.begin(cookie, { n: 1 });
    assert.equal((await ask("DELETE", `${sessiond}/v1/session`, { cookie })).status, 204);
    assert.equal(await store.record(id), null);
    const left = await tombstone(id);
    assert.ok(left > 590_000 && left <= 600_000, `${left}`);
    assert.equal((await slow.end()).body.id, id);
    await assertRefused(sessiond, session);
    // And so it is over in Express.
    assert.notEqual((await ask("GET", `${app.url}/session`, { cookie })).body.id, id);
    // As often as Express likes.
    await store.client.set(`sess:${id}`, '{"cookie":{}}');
    await assertRefused(sessiond, session);
  }
});

test("whatever is asked of a session that Express brought back, it is refused and goes", async (t) => {
  const [app, sessiond] = [await slowOn(t), await sessiondOn(t, store, ...FLAGS)];
  const asks = {
    resolve: ["GET", "/v1/session?touch=never"],
    touch: ["POST", "/v1/session/touch"],
    update: ["PATCH", "/v1/session/data", { json: { n: 2 }, headers: merge }],
    replace: ["PUT", "/v1/session/data", { json: { n: 2 } }],
    regenerate: ["POST", "/v1/session/regenerate", { json: { user_id: "ada" } }],
  };
  for (const [what, [method, path, options]] of Object.entries(asks)) {
    const session = await made("express", app, sessiond, "grace");
    const slow = await app.begin(session.cookie, { n: 1 });
    await ask("DELETE", `${sessiond}/v1/session`, { cookie: session.cookie });
    await slow.end();
    await assertRefused(sessiond, session, () => ask(method, sessiond + path, { cookie: session.cookie, ...options }), what);
  }
  const session = await made("express", app, sessiond, "grace");
  const slow = await app.begin(session.cookie, { n: 1 });
  await ask("DELETE", `${sessiond}/v1/sessions/${session.id}`);
  await slow.end();
  assert.notEqual(await store.record(session.id), null);
  const { body } = await ask("POST", `${sessiond}/v1/sessions/resolve`, { json: { cookies: [session.cookie] } });
  assert.deepEqual(body, { sessions: [null], unreadable: [] });
  assert.equal(await store.record(session.id), null);
  assert.deepEqual((await ask("GET", `${sessiond}/v1/users/grace/sessions`)).body.sessions, []);
});

test("Express's late save does not bring back the old id of a regenerate", async (t) => {
  const [app, sessiond] = [await slowOn(t), await sessiondOn(t, store, ...FLAGS)];
  for (const maker of ["express", "sessiond"]) {
    const session = await made(maker, app, sessiond, "ada");
    const slow = await app.begin(session.cookie, { n: 1 });
    const wanted = { user_id: "grace", keep_data: true };
    const { status, body } = await session.browser.post(`${sessiond}/v1/session/regenerate`, wanted);
    assert.equal(status, 200);
    assert.ok((await tombstone(session.id)) > 0);
    await slow.end();
    await assertRefused(sessiond, session);
    const now = await session.browser.get(`${sessiond}/v1/session`);
    assert.deepEqual([now.body.id, now.body.user_id, now.body.data.n], [body.id, "grace", 0]);
    assert.equal((await session.browser.get(`${app.url}/session`)).body.id, body.id);
  }
});

test("Express's late save does not bring back what a logout everywhere has ended", async (t) => {
  const [app, sessiond] = [await slowOn(t), await sessiondOn(t, store, ...FLAGS)];
  const sessions = [];
  for (const maker of ["express", "sessiond", "express", "sessiond"]) {
    const session = await made(maker, app, sessiond, "lin");
    // Met once, and so in her list.
    assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie: session.cookie })).body.user_id, "lin");
    sessions.push({ ...session, slow: await app.begin(session.cookie, { n: 1 }) });
  }
  const kept = sessions.pop();
  assert.deepEqual((await ask("DELETE", `${sessiond}/v1/users/lin/sessions?except=${kept.id}`)).body, { revoked: 3 });
  for (const { slow } of [...sessions, kept]) await slow.end();
  for (const session of sessions) await assertRefused(sessiond, session);
  assert.deepEqual((await ask("GET", `${sessiond}/v1/session`, { cookie: kept.cookie })).body.data.n, 1);
  const { body } = await ask("GET", `${sessiond}/v1/users/lin/sessions`);
  assert.deepEqual(body.sessions.map(({ id }) => id), [kept.id]);
});

test("a mark is forgotten after --tombstone, and then Express can revive", async (t) => {
  const [app, sessiond] = [await slowOn(t), await sessiondOn(t, store, ...FLAGS, "--tombstone", "1s")];
  const { id, cookie } = await made("express", app, sessiond, "ada");
  const slow = await app.begin(cookie, { n: 1 });
  await ask("DELETE", `${sessiond}/v1/session`, { cookie });
  const left = await tombstone(id);
  assert.ok(left > 0 && left <= 1000, `${left}`);
  await sleep(1050);
  await slow.end();
  assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie })).status, 200);
});

test("without --express-writes Express's late save revives", async (t) => {
  const [app, sessiond] = [await slowOn(t), await sessiondOn(t, store)];
  const { id, cookie } = await made("sessiond", app, sessiond, "ada");
  const slow = await app.begin(cookie, { n: 1 });
  await ask("DELETE", `${sessiond}/v1/session`, { cookie });
  assert.equal(await tombstone(id), -2);
  await slow.end();
  assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie })).status, 200);
});

test("what Express ends Express can revive, until sessiond ends it too", async (t) => {
  const [app, sessiond] = [await slowOn(t), await sessiondOn(t, store, ...FLAGS)];
  const session = await made("sessiond", app, sessiond, "ada");
  const { id, cookie } = session;
  const slow = await app.begin(cookie, { n: 1 });
  await ask("POST", `${app.url}/logout`, { cookie, json: {} });
  await slow.end();
  assert.equal((await ask("GET", `${sessiond}/v1/session`, { cookie })).body.id, id);

  const again = await app.begin(cookie, { n: 2 });
  await ask("POST", `${app.url}/logout`, { cookie, json: {} });
  // There is nothing to end any more, and still it is marked.
  await ask("DELETE", `${sessiond}/v1/session`, { cookie });
  await again.end();
  await assertRefused(sessiond, session);
});

test("Express overwrites what it has not read, and sessiond never does", async (t) => {
  const [app, sessiond] = [await slowOn(t), await sessiondOn(t, store, ...FLAGS)];
  const { id, cookie } = await made("express", app, sessiond, "ada");
  const slow = await app.begin(cookie, { express: 0 });
  const patched = await ask("PATCH", `${sessiond}/v1/session/data`, { cookie, json: { ours: 0 }, headers: merge });
  assert.deepEqual([patched.status, patched.body.data.ours], [200, 0]);
  await slow.end();
  const lost = JSON.parse(await store.record(id));
  assert.deepEqual([lost.express, lost.ours], [0, undefined]);

  // Both at once: Express's change is there in any case, for sessiond looks again when another has written.
  let [together, overwritten] = [0, 0];
  for (let round = 1; round <= 150; round++) {
    const [saved, updated] = await Promise.all([
      sleep(randomInt(3)).then(() => ask("POST", `${app.url}/data`, { cookie, json: { express: round } })),
      sleep(randomInt(3)).then(() => ask("PATCH", `${sessiond}/v1/session/data`, { cookie, json: { ours: round }, headers: merge })),
    ]);
    assert.deepEqual([saved.status, updated.status], [200, 200]);
    const { express, ours } = updated.body.data;
    assert.equal(ours, round);
    assert.ok([round - 1, round].includes(express), `${express} in round ${round}`);
    const record = JSON.parse(await store.record(id));
    assert.equal(record.express, round, "Express's change is lost");
    if (record.ours === round) together++;
    else overwritten++;
    // What was there when sessiond wrote is there still, or Express came last.
    if (express === round) assert.equal(record.ours, round);
  }
  assert.ok(together > 0, `${together} of both, ${overwritten} overwritten by Express`);
});

test("both touch at once, and the session is as it was", async (t) => {
  const app = await slowOn(t, { rolling: true });
  const sessiond = await sessiondOn(t, store, ...FLAGS);
  for (const maker of ["express", "sessiond"]) {
    const { id, cookie } = await made(maker, app, sessiond, "ada");
    const withoutTimes = (record) => record.replace(/"(expires|touched_at)":("[^"]*"|\d+)/g, "");
    const before = await store.record(id);
    for (let round = 0; round < 50; round++) {
      await store.client.pExpire(`sess:${id}`, MAX_AGE / 2);
      const answers = await Promise.all([
        ask("GET", `${app.url}/session`, { cookie }),
        ask("GET", `${sessiond}/v1/session?touch=force`, { cookie }),
        ask("GET", `${sessiond}/v1/session`, { cookie }),
        ask("GET", `${app.url}/session`, { cookie }),
      ]);
      for (const { status, body } of answers) assert.deepEqual([status, body.id], [200, id]);
      const left = await store.client.pTTL(`sess:${id}`);
      assert.ok(left > MAX_AGE - 5000 && left <= MAX_AGE + 1000, `${left}`);
    }
    assert.equal(withoutTimes(await store.record(id)), withoutTimes(before));
    if (maker === "express") assert.equal(await store.record(id), before);
  }
});

test("sessions that only Express extends stay in their user's list", async (t) => {
  const app = await slowOn(t, { cookie: { maxAge: 1000 } });
  const sessiond = await sessiondOn(t, store, ...FLAGS, "--idle-timeout", "1000");
  const { id, cookie } = await made("sessiond", app, sessiond, "mei");
  for (let i = 0; i < 5; i++) {
    await sleep(400);
    assert.equal((await ask("GET", `${app.url}/session`, { cookie })).body.id, id);
  }
  const { body } = await ask("GET", `${sessiond}/v1/users/mei/sessions`);
  assert.deepEqual(body.sessions.map((row) => row.id), [id]);
  assert.deepEqual((await ask("DELETE", `${sessiond}/v1/users/mei/sessions`)).body, { revoked: 1 });
  assert.equal(await store.record(id), null);
});

test("a logout everywhere reaches what only Express has seen, once it is adopted", async (t) => {
  const [app, sessiond] = [await slowOn(t), await sessiondOn(t, store, ...FLAGS)];
  const sessions = [];
  for (let i = 0; i < 5; i++) sessions.push(await made("express", app, sessiond, "zoe"));
  const records = await Promise.all(sessions.map(({ id }) => store.record(id)));
  assert.deepEqual((await ask("DELETE", `${sessiond}/v1/users/zoe/sessions`)).body, { revoked: 0 });
  const adopt = async (...flags) => {
    const config = ["--store", store.url, "--secret", SECRET, "--allow-short-secret", ...FLAGS];
    const { stdout } = await promisify(execFile)(binary, ["adopt", "--json", ...flags, ...config]);
    return JSON.parse(stdout);
  };
  assert.ok((await adopt("--dry-run")).adopted >= 5);
  assert.deepEqual((await ask("GET", `${sessiond}/v1/users/zoe/sessions`)).body.sessions, []);
  assert.ok((await adopt()).adopted >= 5);
  assert.deepEqual(await Promise.all(sessions.map(({ id }) => store.record(id))), records);
  assert.deepEqual((await ask("DELETE", `${sessiond}/v1/users/zoe/sessions`)).body, { revoked: 5 });
  for (const { id } of sessions) assert.equal(await store.record(id), null);
});

test("in 1,000 rounds of whatever comes first no session is lost and none revived", async (t) => {
  const [app, sessiond] = [await slowOn(t), await sessiondOn(t, store, ...FLAGS)];
  const pick = (...all) => all[randomInt(all.length)];
  const tally = { kept: 0, ended: 0, broughtBack: 0 };

  async function round(number) {
    const user = `user-${number}`;
    const { id, cookie } = await made(pick("express", "sessiond"), app, sessiond, user);
    // In the user's list, also when Express made it.
    await ask("GET", `${sessiond}/v1/session`, { cookie });
    const said = [];
    const at = (what, act) => sleep(randomInt(4)).then(() => (said.push(what), act()));
    let end;
    const over = new Promise((resolve) => (end = resolve));
    // Half of them save when the end has come.
    const slow = async () => {
      const request = await app.begin(cookie, { slow: number });
      await (randomInt(2) ? over : sleep(randomInt(8)));
      return request.end();
    };
    const acts = {
      "Express reads": () => ask("GET", `${app.url}/session`, { cookie }),
      "Express writes": () => ask("POST", `${app.url}/views`, { cookie, json: {} }),
      "Express is slow": slow,
      "sessiond resolves": () => ask("GET", `${sessiond}/v1/session`, { cookie }),
      "sessiond touches": () => ask("POST", `${sessiond}/v1/session/touch`, { cookie }),
      "sessiond updates": () => ask("PATCH", `${sessiond}/v1/session/data`, { cookie, json: { ours: number }, headers: merge }),
    };
    const endings = {
      revoke: () => ask("DELETE", `${sessiond}/v1/session`, { cookie }),
      "revoke by user": () => ask("DELETE", `${sessiond}/v1/users/${user}/sessions`),
      regenerate: () => ask("POST", `${sessiond}/v1/session/regenerate`, { cookie, json: { data: { again: number } } }),
    };
    const ending = pick("none", ...Object.keys(endings));
    const running = [];
    if (randomInt(2)) {
      // It has read the session before anything else begins.
      const request = await app.begin(cookie, { slow: number });
      said.push("Express has begun");
      running.push(over.then(request.end));
    }
    for (let i = randomInt(1, 5); i > 0; i--) {
      const what = pick(...Object.keys(acts));
      running.push(at(what, acts[what]));
    }
    const ended = ending === "none" ? null : await at(ending, endings[ending]);
    end();
    await Promise.all(running);

    const story = `round ${number}: ${said.join(", ")}`;
    const there = (await store.record(id)) !== null;
    const { status, body } = await ask("GET", `${sessiond}/v1/session`, { cookie });
    if (ending === "none") {
      assert.deepEqual([status, body.id, body.user_id, there], [200, id, user, true], story);
      tally.kept++;
      return;
    }
    assert.ok([200, 204].includes(ended.status), `${ended.status}, ${story}`);
    if (ending === "revoke by user") assert.deepEqual(ended.body, { revoked: 1 }, story);
    assert.equal(status, 401, story);
    assert.equal(await store.record(id), null, story);
    assert.notEqual((await ask("GET", `${app.url}/session`, { cookie })).body.id, id, story);
    tally.ended++;
    if (there) tally.broughtBack++;
    if (ending === "regenerate") {
      const next = await ask("GET", `${sessiond}/v1/session`, { cookie: ended.setCookies[0].split(";")[0] });
      assert.deepEqual([next.status, next.body.id, next.body.data.again], [200, ended.body.id, number], story);
    }
  }

  for (let number = 0; number < 1000; number += 20) {
    await Promise.all(Array.from({ length: 20 }, (_, i) => round(number + i)));
  }
  t.diagnostic(JSON.stringify(tally));
  assert.ok(tally.kept > 100 && tally.ended > 500 && tally.broughtBack > 100, JSON.stringify(tally));
});
