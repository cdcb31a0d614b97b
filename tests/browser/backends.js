// The backends of examples/, the Express one on both majors, each on a free port, over one sessiond.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer, connect } from "node:net";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));
const PROGRAMS = {
  express: ["node", `${root}examples/express/app.js`],
  express4: ["node", "--import", new URL("express4.js", import.meta.url).href, `${root}examples/express/app.js`],
  fastapi: [`${root}target/fastapi/bin/python`, `${root}examples/fastapi/app.py`],
  axum: [`${root}target/examples/debug/sessiond-example-axum`],
};
const DEADLINE_MS = 20_000;

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  return port;
}

async function listens(port, child, name) {
  const end = Date.now() + DEADLINE_MS;
  while (Date.now() < end && child.exitCode === null) {
    const socket = connect(port, "127.0.0.1");
    // `once` rejects when there is an error.
    const open = await once(socket, "connect").then(() => true, () => false);
    socket.destroy();
    if (open) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${name} does not start: scripts/test prepares what it needs`);
}

/** Starts them all: `urls` by name, `stop` to end them. */
export async function startBackends(sessiondUrl) {
  const children = [];
  const urls = {};
  const stop = () => {
    children.forEach((child) => child.kill());
    process.off("exit", stop);
  };
  process.once("exit", stop);
  await Promise.all(
    Object.entries(PROGRAMS).map(async ([name, [program, ...args]]) => {
      const port = await freePort();
      // NODE_ENV=test: Express does not log what a test provokes.
      const env = { ...process.env, SESSIOND_URL: sessiondUrl, PORT: String(port), NODE_ENV: "test" };
      const child = spawn(program, args, { env, stdio: ["ignore", "ignore", "inherit"] });
      children.push(child);
      await Promise.race([listens(port, child, name), once(child, "error").then(([error]) => Promise.reject(error))]);
      urls[name] = `http://localhost:${port}`;
    }),
  );
  return { urls, stop };
}
