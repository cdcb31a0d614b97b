// The example does what it says, against a running sessiond.

import assert from "node:assert/strict";
import { test } from "node:test";
import { startSessiond } from "../common/sessiond.mjs";
import { visit } from "./build/visit.js";

test("a visit, in the contract's own types", async (t) => {
  const sessiond = await startSessiond();
  t.after(sessiond.stop);
  const { issued, resolved, updated, loggedIn, forget, refused } = await visit(sessiond.url);

  assert.deepEqual(issued.data, { cart: ["tea"] });
  assert.equal(resolved.id, issued.id);
  assert.equal(resolved.user_id, null);
  assert.deepEqual(updated.data, { cart: ["tea"], theme: "dark" });
  assert.notEqual(loggedIn.id, issued.id);
  assert.equal(loggedIn.user_id, "ada");
  assert.deepEqual(loggedIn.data, updated.data);
  assert.match(forget.join(), /^connect\.sid=;.*Max-Age=0/);
  assert.equal(refused.status, 401);
  assert.equal(refused.code, "no-session");
});
