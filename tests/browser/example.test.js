// The backends of examples/ in a browser: one session on all of them, as its user sees it.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { startSessiond } from "../common/sessiond.mjs";
import { startBackends } from "./backends.js";
import { launchChromium } from "./chromium.js";

const IDLE_MS = 3_600_000;

let sessiond, backends, browser, context, page;

before(async () => {
  sessiond = await startSessiond("--idle-timeout", String(IDLE_MS));
  backends = await startBackends(sessiond.url);
  browser = await launchChromium();
});

after(async () => {
  await browser?.close();
  backends?.stop();
  await sessiond?.stop();
});

beforeEach(async () => {
  context = await browser.newContext();
  page = await context.newPage();
});

afterEach(() => context.close());

/** What a backend's page says. */
async function visit(url, on = page) {
  const answer = await on.goto(url);
  const text = async (id) => ((await on.locator(`#${id}`).count()) ? on.locator(`#${id}`).textContent() : undefined);
  return { status: answer.status(), id: await text("session"), user: await text("user"), views: await text("views") };
}

async function logIn(url, user, on = page) {
  await on.goto(`${url}/account`);
  await on.getByLabel("name").fill(user);
  await on.getByRole("button", { name: "Log in" }).click();
  await on.locator("#user", { hasText: user }).waitFor();
}

const cookie = async (on = context) => (await on.cookies()).find(({ name }) => name === "connect.sid");

test("there is no cookie before there is something to store", async () => {
  for (const url of Object.values(backends.urls)) {
    assert.deepEqual(await visit(`${url}/account`), { status: 200, id: "none", user: "nobody", views: undefined });
  }
  assert.deepEqual(await context.cookies(), []);
});

test("the cookie has the attributes that it should, and no script reads it", async () => {
  const began = Date.now();
  await visit(backends.urls.express);
  const { httpOnly, secure, sameSite, path, domain, expires } = await cookie();
  assert.deepEqual({ httpOnly, secure, sameSite, path, domain }, { httpOnly: true, secure: true, sameSite: "Lax", path: "/", domain: "localhost" });
  const idle = expires * 1000 - began;
  assert.ok(idle > IDLE_MS - 2_000 && idle < IDLE_MS + 10_000, `expires in ${idle} ms`);
  assert.equal(await page.evaluate(() => document.cookie), "");
});

test("every route and every backend sees the same session, and counts in it", async () => {
  const { express, fastapi, axum } = backends.urls;
  const first = await visit(express);
  assert.equal(first.views, "1");
  for (const [url, views] of [[fastapi, "2"], [axum, "3"], [express, "4"]]) {
    assert.deepEqual(await visit(url), { ...first, views });
  }
  for (const url of [`${express}/account`, `${fastapi}/account`, `${axum}/account`]) {
    assert.equal((await visit(url)).id, first.id);
  }
  assert.equal((await context.cookies()).length, 1);
});

test("views that come at once are all counted", async () => {
  const urls = Object.values(backends.urls);
  await visit(urls[0]);
  const headers = { cookie: `connect.sid=${(await cookie()).value}` };
  const answers = await Promise.all(Array.from({ length: 12 }, (_, n) => fetch(urls[n % 3], { headers })));
  assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([200]));
  assert.equal((await visit(urls[1])).views, "14");
});

for (const name of ["express", "fastapi", "axum"]) {
  test(`a login at ${name} gives a new id, keeps the data, and ends the old cookie`, async () => {
    const urls = Object.values(backends.urls);
    const before = await visit(backends.urls[name]);
    const old = await cookie();
    await logIn(backends.urls[name], "ada <b>");
    for (const [at, url] of urls.entries()) {
      const seen = await visit(url);
      assert.notEqual(seen.id, before.id);
      assert.deepEqual([seen.user, seen.views], ["ada <b>", String(at + 2)]);
    }
    const stale = await fetch(`${urls[0]}/account`, { headers: { cookie: `connect.sid=${old.value}` } });
    assert.match(await stale.text(), /id="session">none</);

    await page.goto(`${backends.urls[name]}/account`);
    await page.getByRole("button", { name: "Log out", exact: true }).click();
    await page.locator("#user", { hasText: "nobody" }).waitFor();
    assert.equal(await cookie(), undefined, "a logout clears the cookie");
    assert.equal((await visit(`${urls[1]}/account`)).id, "none");
  });
}

for (const name of ["express", "fastapi", "axum"]) {
  test(`at ${name} another user in the same browser begins anew`, async () => {
    const url = backends.urls[name];
    await logIn(url, "ada");
    const { id } = await visit(url);
    const old = await cookie();
    await logIn(url, "eve");
    const seen = await visit(url);
    assert.notEqual(seen.id, id);
    assert.deepEqual([seen.user, seen.views], ["eve", "1"]);
    const stale = await fetch(`${url}/account`, { headers: { cookie: `connect.sid=${old.value}` } });
    assert.match(await stale.text(), /id="session">none</);
  });
}

for (const name of ["express", "fastapi"]) {
  test(`logging out everywhere at ${name} in one browser ends the session in another`, async () => {
    const other = await browser.newContext();
    const url = backends.urls[name];
    await logIn(url, "grace");
    const elsewhere = await other.newPage();
    await logIn(backends.urls.axum, "grace", elsewhere);
    await page.goto(`${url}/account`);
    await page.getByRole("link", { name: "my sessions" }).click();
    await page.locator("#sessions").waitFor();
    assert.equal(await page.locator("#sessions li").count(), 2);
    assert.equal(await page.locator("#sessions li", { hasText: "this one" }).count(), 1);
    await page.getByRole("button", { name: "Log out everywhere" }).click();
    await page.locator("#user", { hasText: "nobody" }).waitFor();
    assert.equal(await cookie(), undefined, "a logout clears the cookie");
    assert.equal((await visit(`${backends.urls.axum}/account`, elsewhere)).user, "nobody");
    await other.close();
  });
}

test("a session expires, in the browser as on every backend", async (t) => {
  const short = await startSessiond("--idle-timeout", "2s");
  const over = await startBackends(short.url);
  t.after(async () => (over.stop(), await short.stop()));
  const { id } = await visit(over.urls.express);
  await sleep(1_000);
  assert.equal((await visit(`${over.urls.axum}/account`)).id, id, "a visit extends it");
  await sleep(2_600);
  assert.equal(await cookie(), undefined, "the browser has dropped it");
  for (const url of Object.values(over.urls)) assert.equal((await visit(`${url}/account`)).id, "none");
});

test("while sessiond is away nobody is taken for logged out", async (t) => {
  const own = await startSessiond();
  const over = await startBackends(own.url);
  t.after(over.stop);
  await logIn(over.urls.express, "ada");
  await own.stop();
  for (const [name, url] of Object.entries(over.urls)) {
    const answer = await page.goto(`${url}/account`);
    assert.equal(answer.status(), 503, name);
    assert.equal(answer.headers()["retry-after"], "1", name);
  }
  assert.ok(await cookie(), "the cookie stays");
});
