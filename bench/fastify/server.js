// fastify, @fastify/session and connect-redis, as their READMEs put them together. `rolling` is off, or each resolve would
// write the whole session.
import cookie from "@fastify/cookie";
import session from "@fastify/session";
import { RedisStore } from "connect-redis";
import Fastify from "fastify";
import { createClient } from "redis";

const { REDIS_SOCKET, SECRET } = process.env;
const client = await createClient({ socket: { path: REDIS_SOCKET } }).connect();
const store = new RedisStore({ client, prefix: "fastify:" });

const app = Fastify();
app.register(cookie);
app.register(session, {
  store,
  secret: SECRET,
  rolling: false,
  saveUninitialized: false,
  cookie: { maxAge: 24 * 60 * 60 * 1000, secure: false },
});

app.post("/sessions", async (request, reply) => {
  request.session.answer = request.body;
  reply.status(201).send();
});

app.get("/session", async (request, reply) => {
  const { answer } = request.session;
  if (!answer) return reply.status(401).send();
  return { id: request.session.sessionId, ...answer };
});

console.error(`listens on ${(await app.listen({ host: "127.0.0.1", port: 0 })).replace("http://", "")}`);
