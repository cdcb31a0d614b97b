// A redis-server of the test's own: on a unix socket in a folder of its own, and without a file on disk.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const DEADLINE_MS = 10_000;

/** Starts it, and waits until it answers. `socket` says where, `url` says it to sessiond; `stop` ends it. */
export async function startRedis(...flags) {
  const folder = await mkdtemp(join(tmpdir(), "sessiond-redis-"));
  const socket = join(folder, "redis.sock");
  const place = ["--port", "0", "--unixsocket", socket, "--dir", folder, "--save", "", "--appendonly", "no"];
  const child = spawn("redis-server", [...place, ...flags], { stdio: ["ignore", "pipe", "inherit"] });
  const kill = () => child.kill("SIGKILL");
  process.once("exit", kill);
  const log = [];
  child.stdout.on("data", (text) => log.push(text));
  let failure;
  child.once("error", (error) => (failure = error.message));
  const ended = new Promise((resolve) => child.once("close", resolve));
  ended.then(() => (failure ??= "it has ended"));

  async function stop() {
    // There is nothing to save.
    kill();
    await ended;
    process.off("exit", kill);
    await rm(folder, { recursive: true });
  }

  const deadline = Date.now() + DEADLINE_MS;
  while (!(await answers(socket))) {
    if (Date.now() > deadline) failure ??= "it does not answer";
    if (failure) {
      await stop();
      throw new Error(`redis-server does not start: ${failure}\n${log.join("")}`);
    }
    await sleep(10);
  }
  return { socket, url: `redis+unix://${socket}`, stop };
}

/** Whether it is up. Without a client library, so that any folder's tests can use this file. */
async function answers(path) {
  const connection = connect({ path });
  try {
    await once(connection, "connect");
    connection.write("PING\r\n");
    const [answer] = await once(connection, "data");
    return answer.toString().startsWith("+PONG");
  } catch {
    return false;
  } finally {
    connection.destroy();
  }
}
