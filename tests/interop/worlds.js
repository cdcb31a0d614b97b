// The two worlds over one Redis: a sessiond, and Express apps with express-session and connect-redis.

import { once } from "node:events";
import { RedisStore } from "connect-redis";
import express from "express";
import session from "express-session";
import { createClient } from "redis";
import { startRedis } from "../common/redis.mjs";
import { startSessiond } from "../common/sessiond.mjs";

export const SECRET = "keyboard cat";
/** The maxAge of Express's sessions and the idle timeout of sessiond's, in these tests. */
export const MAX_AGE = 600_000;

/** A Redis with nothing in it, and a client of the test's own. */
export async function startStore() {
  const redis = await startRedis();
  const client = createClient({ socket: { path: redis.socket } });
  await client.connect();
  return {
    url: redis.url,
    client,
    /** The bytes of a session's record; null when there is none. */
    record: (id) => client.get(`sess:${id}`),
    async stop() {
      client.destroy();
      await redis.stop();
    },
  };
}

/** A sessiond on that store, which ends with the test. Flags that are given come last, and win. */
export async function sessiondOn(t, store, ...flags) {
  const given = (name) => flags.some((flag) => flag === name || flag.startsWith(`${name}=`));
  const usual = Object.entries({
    "--secret": SECRET,
    "--idle-timeout": String(MAX_AGE),
    // Express sets its cookies without it, and sends a Secure one over HTTPS only.
    "--cookie-secure": "false",
  }).flatMap((flag) => (given(flag[0]) ? [] : flag));
  const sessiond = await startSessiond("--store", store.url, "--allow-short-secret", ...usual, ...flags);
  t.after(sessiond.stop);
  return sessiond.url;
}

/**
 * An Express app on that store, which ends with the test. `options` are express-session's, `storeOptions` connect-redis's;
 * `routes(app)` adds to what is below.
 */
export async function expressOn(t, store, options = {}, { storeOptions = {}, routes = () => {} } = {}) {
  const app = express();
  const sessions = new RedisStore({ client: store.client, ...storeOptions });
  const usual = { secret: SECRET, resave: false, saveUninitialized: false, cookie: { maxAge: MAX_AGE, sameSite: "lax" } };
  app.use(session({ ...usual, ...options, store: sessions }), express.json());
  app.get("/", (_req, res) => res.end());
  app.get("/session", (req, res) => res.json({ id: req.sessionID, session: req.session ?? null, user: req.user ?? null }));
  // Puts what it is sent into the session; null takes a key away.
  app.post("/data", (req, res) => {
    for (const [name, value] of Object.entries(req.body)) {
      if (value === null) delete req.session[name];
      else req.session[name] = value;
    }
    res.json({ id: req.sessionID });
  });
  app.post("/views", (req, res) => {
    req.session.views = (req.session.views ?? 0) + 1;
    res.json(req.session.views);
  });
  app.post("/login", (req, res, next) => {
    req.session.regenerate((error) => {
      if (error) return next(error);
      req.session.user = req.body;
      res.json({ id: req.sessionID });
    });
  });
  app.post("/logout", (req, res, next) => {
    req.session.destroy((error) => (error ? next(error) : res.json({})));
  });
  routes(app);
  app.use((error, _req, res, _next) => res.status(500).json({ error: `${error.name}: ${error.message}` }));
  return serve(t, app);
}

/** Serves on a free port until the test ends, and says where. */
export async function serve(t, app) {
  const server = app.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  return `http://127.0.0.1:${server.address().port}`;
}

/** One request. The answer: status, headers, body (parsed when it is JSON), and the cookies it sets. */
export async function ask(method, url, { cookie, json, headers = {}, within = 10_000 } = {}) {
  const answer = await fetch(url, {
    method,
    signal: AbortSignal.timeout(within),
    headers: { ...(cookie && { cookie }), ...(json !== undefined && { "content-type": "application/json" }), ...headers },
    body: json === undefined ? undefined : JSON.stringify(json),
  });
  const text = await answer.text();
  const isJson = /json/.test(answer.headers.get("content-type"));
  const body = isJson && text ? JSON.parse(text) : text;
  return { status: answer.status, headers: answer.headers, text, body, setCookies: answer.headers.getSetCookie() };
}

/** A browser, as far as it matters: it keeps the cookies it is given, and sends them to either world. */
export class Browser {
  cookies = new Map();

  get cookie() {
    return [...this.cookies].map(([name, value]) => `${name}=${value}`).join("; ");
  }

  async ask(method, url, options = {}) {
    const answer = await ask(method, url, { cookie: this.cookie, ...options });
    for (const line of answer.setCookies) {
      const [, name, value, attributes] = line.match(/^([^=]*)=([^;]*)(.*)$/);
      const expires = attributes.match(/; Expires=([^;]*)/i)?.[1];
      if (expires && Date.parse(expires) <= Date.now()) this.cookies.delete(name);
      else this.cookies.set(name, value);
    }
    return answer;
  }

  get = (url, options) => this.ask("GET", url, options);
  post = (url, json, options) => this.ask("POST", url, { json, ...options });
  delete = (url, options) => this.ask("DELETE", url, options);
  /** A merge patch of the data, at sessiond. */
  patch = (sessiond, json) =>
    this.ask("PATCH", `${sessiond}/v1/session/data`, { json, headers: { "content-type": "application/merge-patch+json" } });
}

/** Whether Express has this from `maxAge`: it loses a millisecond when the clock ticks between setting and reading it. */
export const drifted = (from, maxAge) => from <= maxAge && from >= maxAge - 16;

/** The data of a session as Express shows it: without `cookie` and what is sessiond's. */
export function dataOf({ cookie, sessiond, ...data }) {
  return data;
}
