// /docs in a browser: all of the contract is there, and nothing comes from anywhere else.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { startSessiond } from "../common/sessiond.mjs";
import { launchChromium } from "./chromium.js";

const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

let sessiond, browser, page, answer, requests, complaints;

before(async () => {
  sessiond = await startSessiond();
  browser = await launchChromium();
});

after(async () => {
  await browser?.close();
  await sessiond?.stop();
});

beforeEach(async () => {
  page = await browser.newPage();
  requests = [];
  complaints = [];
  page.on("request", (request) => requests.push(request.url()));
  page.on("requestfailed", (request) => complaints.push(`${request.url()}: ${request.failure().errorText}`));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  await page.exposeFunction("complain", (text) => complaints.push(text));
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      window.complain(`policy: ${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  answer = await page.goto(`${sessiond.url}/docs`);
  await page.locator(".opblock").first().waitFor();
});

afterEach(() => page.close());

test("every operation is shown, opens, and is read only", async () => {
  const contract = await readFile(new URL("../../openapi.yaml", import.meta.url), "utf8");
  const paths = [...contract.matchAll(/^  (\/.*):$/gm)].map(([, path]) => path);
  const operations = contract.match(/^    (get|put|post|patch|delete):$/gm);
  assert.ok(paths.includes("/v1/session/regenerate"));

  assert.equal(await page.title(), "sessiond API");
  const blocks = page.locator(".opblock");
  assert.equal(await blocks.count(), operations.length);
  const shown = await page.locator(".opblock-summary-path").evaluateAll((all) => all.map((one) => one.dataset.path));
  assert.deepEqual(new Set(shown), new Set(paths));

  for (const block of await blocks.all()) {
    await block.locator(".opblock-summary-control").click();
    await block.getByRole("heading", { name: "Responses" }).waitFor();
  }
  const closed = page.locator(".models").getByRole("button", { name: "Expand all" });
  while ((await closed.count()) > 0) await closed.first().click();
  await page.locator(".models").getByText("Where a session is issued to").waitFor();
  assert.equal(await page.getByRole("button", { name: /try it out|authorize/i }).count(), 0);
  assert.deepEqual(complaints, []);
});

test("it works without a mouse", async () => {
  const control = page.locator(".opblock-summary-control").first();
  for (let tabs = 0; tabs < 20 && !(await control.evaluate((it) => it === document.activeElement)); tabs++) {
    await page.keyboard.press("Tab");
  }
  await page.keyboard.press("Enter");
  await page.locator(".opblock").first().getByRole("heading", { name: "Responses" }).waitFor();
  assert.equal(await control.getAttribute("aria-expanded"), "true");
});

test("everything comes from the service", async () => {
  await page.waitForLoadState("networkidle");
  const { url } = sessiond;
  assert.deepEqual(requests.filter((request) => !request.startsWith("data:")).sort(), [
    `${url}/docs`,
    `${url}/docs/start.js`,
    `${url}/docs/swagger-ui-bundle.js`,
    `${url}/docs/swagger-ui.css`,
    `${url}/openapi.yaml`,
  ]);
  const links = await page.locator("a").evaluateAll((all) => all.map((link) => link.href));
  assert.deepEqual(links.filter((link) => !link.startsWith(`${url}/`)), []);
  assert.equal(answer.headers()["content-security-policy"], POLICY);
  assert.deepEqual(complaints, []);
});

test("the policy holds", async () => {
  await page.evaluate(() => {
    const [style, script] = ["style", "script"].map((name) => document.createElement(name));
    style.textContent = "main { display: none }";
    script.textContent = "document.title = 'mine'";
    document.head.append(style, script);
  });
  await page.locator("main").waitFor({ state: "visible" });
  assert.equal(await page.title(), "sessiond API");
  const refused = complaints.filter((complaint) => complaint.startsWith("policy: "));
  assert.deepEqual(refused, ["policy: style-src-elem inline", "policy: script-src-elem inline"]);
});
