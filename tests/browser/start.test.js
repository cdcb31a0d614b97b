// examples/start, as a user runs it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { freePort } from "./backends.js";

const root = fileURLToPath(new URL("../../", import.meta.url));
// Enough for a build.
const DEADLINE_MS = 1_800_000;

test("examples/start works with a target directory elsewhere, and Ctrl-C ends what it started", async (t) => {
  const ports = await Promise.all(Array.from({ length: 4 }, freePort));
  const [listen, ...backends] = ports;
  const folder = await mkdtemp(join(tmpdir(), "start-"));
  t.after(() => rm(folder, { recursive: true }));
  const elsewhere = join(folder, "elsewhere");
  await symlink(`${root}target`, elsewhere);
  const env = {
    ...process.env,
    SESSIOND_LISTEN: `127.0.0.1:${listen}`,
    EXPRESS_PORT: backends[0],
    FASTAPI_PORT: backends[1],
    AXUM_PORT: backends[2],
    // Elsewhere, with what was built already.
    CARGO_TARGET_DIR: elsewhere,
    CARGO_PROFILE: "dev",
  };
  delete env.SESSIOND_URL;
  // A process group of its own, as a terminal gives it one.
  const start = spawn(`${root}examples/start`, { env, detached: true, stdio: ["ignore", "ignore", "inherit"] });
  const kill = () => {
    try {
      process.kill(-start.pid, "SIGKILL");
    } catch {
      // The group has ended.
    }
  };
  t.after(kill);
  process.once("exit", kill);
  const ended = once(start, "exit");

  const answers = async (url) => (await fetch(url).catch(() => ({}))).status === 200;
  const until = async (condition, what) => {
    const end = Date.now() + DEADLINE_MS;
    while (!(await condition())) {
      assert.equal(start.exitCode, null, `examples/start ended: ${what}`);
      assert.ok(Date.now() < end, what);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  for (const port of backends) await until(() => answers(`http://127.0.0.1:${port}/`), `port ${port} does not answer`);

  process.kill(-start.pid, "SIGINT");
  await ended;
  for (const port of ports) {
    await assert.rejects(fetch(`http://127.0.0.1:${port}/`), `port ${port} still answers`);
  }
});
