// A sessiond of the test's own: on a free port, with SQLite in a folder of its own.

import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
export const binary = process.env.SESSIOND_BIN ?? join(root, "target/debug/sessiond");
const DEADLINE_MS = 10_000;

/** Starts it with these flags, and waits until it listens. `url` says where; `stop` ends it. */
export async function startSessiond(...flags) {
  const folder = await mkdtemp(join(tmpdir(), "sessiond-"));
  // Nothing of the tester's environment reaches the service.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("SESSIOND_")));
  const child = spawn(binary, ["--listen", "127.0.0.1:0", ...flags], { cwd: folder, env, stdio: ["ignore", "ignore", "pipe"] });
  const kill = () => child.kill("SIGKILL");
  process.once("exit", kill);
  const ended = new Promise((resolve) => child.once("close", resolve));

  async function stop() {
    child.kill();
    await ended;
    process.off("exit", kill);
    await rm(folder, { recursive: true });
  }

  const log = [];
  const address = new Promise((resolve, reject) => {
    const fail = (why) => {
      clearTimeout(timer);
      reject(new Error(`${binary} does not start: ${why}\n${log.join("\n")}`));
    };
    const timer = setTimeout(fail, DEADLINE_MS, "it does not listen");
    child.once("error", (error) => fail(error.message));
    ended.then(() => fail("it has ended"));
    createInterface({ input: child.stderr }).on("line", (line) => {
      log.push(line);
      const [, address] = line.match(/^sessiond .* listens on (\S+)$/) ?? [];
      if (address) {
        clearTimeout(timer);
        resolve(address);
      }
    });
  });
  try {
    return { url: `http://${await address}`, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
