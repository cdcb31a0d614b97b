// express, express-session and connect-redis, as their READMEs put them together. Resolves only read, so nothing is written
// but what express-session does by itself: at each request it touches the session in Redis, unless DISABLE_TOUCH is 1.
import express from "express";
import session from "express-session";
import { RedisStore } from "connect-redis";
import { createClient } from "redis";

const { DISABLE_TOUCH, REDIS_SOCKET, SECRET } = process.env;
const disableTouch = DISABLE_TOUCH === "1";
const client = await createClient({ socket: { path: REDIS_SOCKET } }).connect();
const store = new RedisStore({ client, prefix: "express:", disableTouch });

const app = express();
app.use(
  session({
    store,
    secret: SECRET,
    resave: false,
    rolling: false,
    saveUninitialized: false,
    cookie: { maxAge: 24 * 60 * 60 * 1000 },
  }),
);

app.post("/sessions", express.json(), (request, response) => {
  request.session.answer = request.body;
  response.sendStatus(201);
});

app.get("/session", (request, response) => {
  const { answer } = request.session;
  if (!answer) return response.sendStatus(401);
  response.json({ id: request.sessionID, ...answer });
});

const server = app.listen(0, "127.0.0.1", () => console.error(`listens on 127.0.0.1:${server.address().port}`));
