// The examples' middlewares where a browser cannot look: the service is unavailable, a visitor beside another, two requests of
// one browser at the same time.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";
import express from "express4";
import { startSessiond } from "../common/sessiond.mjs";
import { startBackends } from "./backends.js";
import { startGate } from "./gate.js";

const COOKIE = { cookie: "theme=dark; connect.sid=s%3Aada.signed" };

test("a service that is away is a 503, and nobody is logged out", async (t) => {
  let behave;
  const service = createServer((request, response) => behave(request, response));
  await new Promise((resolve) => service.listen(0, "127.0.0.1", resolve));
  t.after(() => service.close());
  const { urls, stop } = await startBackends(`http://127.0.0.1:${service.address().port}`);
  t.after(stop);

  /** No page, no login form, and the browser keeps its cookie. */
  async function refusedWith(status, url, options) {
    // A connection each: uvicorn closes the one that it answered 500 on, which a next request could still meet.
    const headers = { ...options?.headers, connection: "close" };
    const answer = await fetch(url, { redirect: "manual", ...options, headers });
    const body = await answer.text();
    assert.equal(answer.status, status, `${url}: ${body}`);
    assert.equal(answer.headers.get("retry-after"), status === 503 ? "1" : null);
    assert.deepEqual(answer.headers.getSetCookie(), []);
    assert.doesNotMatch(body, /log in/i);
  }

  async function everywhere(status) {
    await Promise.all(
      Object.values(urls).flatMap((url) => [
        refusedWith(status, url, { headers: COOKIE }),
        refusedWith(status, url),
        refusedWith(status, `${url}/login`, { method: "POST", body: new URLSearchParams({ user: "ada" }) }),
        refusedWith(status, `${url}/logout`, { method: "POST", headers: COOKIE }),
      ]),
    );
  }

  await t.test("its store is away", async () => {
    behave = (request, response) => response.writeHead(503, { "retry-after": "1" }).end('{"code":"store-unavailable"}');
    await everywhere(503);
  });

  await t.test("it does not answer", async () => {
    behave = () => {};
    await everywhere(503);
  });

  await t.test("the key is refused: our fault, and not the browser's", async () => {
    behave = (request, response) => response.writeHead(403).end('{"code":"unknown-api-key"}');
    await everywhere(500);
  });

  await t.test("nothing listens", async () => {
    service.closeAllConnections();
    await new Promise((resolve) => service.close(resolve));
    await everywhere(503);
    // Who has no cookie has no session: nobody needs to be asked.
    for (const url of Object.values(urls)) assert.equal((await fetch(`${url}/account`)).status, 200);
  });
});

async function ask(url, options) {
  const answer = await fetch(url, { redirect: "manual", ...options });
  return { status: answer.status, body: await answer.text(), cookies: answer.headers.getSetCookie().map((line) => line.split(";")[0]) };
}
const logIn = (url, user, headers) => ask(`${url}/login`, { method: "POST", headers, body: new URLSearchParams({ user }) });

test("between requests", async (t) => {
  // Not Secure: so that a cookie jar in a backend's client, were there one, would send it. Each resolve touches.
  const sessiond = await startSessiond("--cookie-secure", "false", "--touch-after", "1ms");
  t.after(sessiond.stop);
  const { urls, stop } = await startBackends(sessiond.url);
  t.after(stop);

  for (const [name, url] of Object.entries(urls)) {
    await t.test(`${name} keeps no visitor's cookie for the next`, async () => {
      const { status, cookies: [ada] } = await logIn(url, "ada");
      assert.equal(status, 303);
      assert.match((await ask(url, { headers: { cookie: ada } })).body, /id="user">ada</);
      for (const headers of [{}, { cookie: "theme=dark" }]) {
        await ask(`${url}/logout`, { method: "POST", headers });
        const { body, cookies: [other] } = await ask(url, { headers });
        assert.match(body, /id="user">nobody</);
        assert.notEqual(other, ada);
      }
      assert.match((await ask(url, { headers: { cookie: ada } })).body, /id="user">ada</);
    });

    await t.test(`${name} finds the cookie among others, and takes a dead one for none`, async () => {
      const { cookies: [ada] } = await logIn(url, "ada", { cookie: "theme=dark; connect.sid=s%3Adead.dead" });
      const headers = { cookie: `theme=dark; ${ada}; lang=en` };
      assert.match((await ask(url, { headers })).body, /id="user">ada</);
      const { cookies } = await ask(`${url}/logout`, { method: "POST", headers });
      assert.equal(cookies.at(-1), "connect.sid=");
      assert.match((await ask(url, { headers })).body, /id="user">nobody</);
    });

    await t.test(`${name} passes on the cookie of a touch`, async () => {
      const { cookies: [ada] } = await logIn(url, "ada");
      assert.deepEqual((await ask(`${url}/account`, { headers: { cookie: ada } })).cookies, [ada]);
    });
  }
});

test("a login's cookie survives an anonymous request that is slower than the login", async (t) => {
  // Each resolve touches, so the slow request also has a cookie of the old session to pass on.
  const sessiond = await startSessiond("--touch-after", "1ms");
  t.after(sessiond.stop);
  const nothing = () => {};
  let before = nothing;
  const gate = await startGate(sessiond.url, (request) => before(request));
  t.after(gate.stop);
  const { urls, stop } = await startBackends(gate.url);
  t.after(stop);
  /** Does this once, before the next request with this method reaches sessiond. */
  const next = (method, action) => {
    before = async (request) => {
      if (request.method !== method) return;
      before = nothing;
      await action();
    };
  };

  for (const [name, url] of Object.entries(urls)) {
    for (const moment of ["update", "retry"]) {
      await t.test(`${name}: the login comes before the ${moment}`, async () => {
        const { cookies: [anonymous] } = await ask(url);
        const headers = { cookie: anonymous };
        let login;
        const logInMeanwhile = async () => {
          login = await logIn(url, "ada", headers);
        };
        // The update depends on the data: if they have changed, the middleware reads them and tries again.
        next("PATCH", moment === "update" ? logInMeanwhile : async () => {
          const json = { ...headers, "content-type": "application/merge-patch+json" };
          await fetch(`${sessiond.url}/v1/session/data`, { method: "PATCH", headers: json, body: '{"theme":"dark"}' });
          next("GET", logInMeanwhile);
        });
        const slow = await ask(url, { headers });
        assert.equal(login.cookies.length, 1);
        // A browser keeps the cookie that comes last.
        const cookie = [...login.cookies, ...slow.cookies].at(-1);
        const seen = await ask(url, { headers: { cookie } });
        assert.match(seen.body, /id="user">ada</);
        assert.match(seen.body, /id="views">2</);
        assert.equal(slow.status, 409, slow.body);
      });
    }
  }
});

test("logging out everywhere without a login ends nobody's sessions", async (t) => {
  const sessiond = await startSessiond();
  t.after(sessiond.stop);
  const { urls, stop } = await startBackends(sessiond.url);
  t.after(stop);
  for (const name of ["express", "fastapi"]) {
    for (const user of ["null", "None", "undefined"]) {
      const { cookies: [cookie] } = await logIn(urls[name], user);
      assert.equal((await ask(`${urls[name]}/logout-everywhere`, { method: "POST" })).status, 303);
      const { body } = await ask(urls[name], { headers: { cookie } });
      assert.ok(body.includes(`id="user">${user}<`), body);
    }
  }
});

test("after an update that came too late no update issues a session, but a login does", async (t) => {
  const sessiond = await startSessiond();
  t.after(sessiond.stop);
  process.env.SESSIOND_URL = sessiond.url;
  const { session, SessionEnded } = await import("../../examples/express/session.js");
  const app = express();
  app.use(session());
  app.post("/", async (req, res) => {
    await req.session.update({ theme: "dark" });
    res.end();
  });
  app.post("/late", async (req, res) => {
    await fetch(`${sessiond.url}/v1/session`, { method: "DELETE", headers: { cookie: req.headers.cookie } });
    const late = [];
    for (const theme of ["light", "dark"]) {
      await req.session.update({ theme }).catch((error) => late.push(error instanceof SessionEnded));
    }
    const cookies = res.getHeader("set-cookie") ?? [];
    await req.session.login("ada");
    await req.session.update({ theme: "light" });
    const { user, data } = req.session;
    res.json({ late, cookies, user, data });
  });
  const server = app.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => (server.close(), server.closeAllConnections()));
  const url = `http://127.0.0.1:${server.address().port}`;
  const { cookies: [cookie] } = await ask(url, { method: "POST" });
  const { body } = await ask(`${url}/late`, { method: "POST", headers: { cookie } });
  assert.deepEqual(JSON.parse(body), { late: [true, true], cookies: [], user: "ada", data: { theme: "light" } });
});
