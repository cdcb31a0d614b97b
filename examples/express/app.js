// The tutorial app: sessions before the routes, a counter of page views, login and logout.

import express from "express";
import { session } from "./session.js";

const { PORT = 3001, HOST = "127.0.0.1" } = process.env;
const app = express();
app.disable("x-powered-by");
app.use(express.urlencoded({ extended: false }));
app.use(session());

// Passes the rejection of an async handler to Express's error handler. Express 5 does so by itself; under Express 4 it would
// end the process.
const route = (handler) => (req, res, next) => handler(req, res).catch(next);

app.get("/", route(async (req, res) => {
  await req.session.update((data) => ({ views: (data.views ?? 0) + 1 }));
  res.send(page(req.session, `<p>Page views, on all backends together: <b id="views">${req.session.data.views}</b></p>`));
}));

// Another route, the same session; it stores nothing, so it makes none.
app.get("/account", (req, res) => res.send(page(req.session)));

app.get("/sessions", route(async (req, res) => {
  if (!req.session.user) return res.redirect(303, "/account");
  const row = ({ created_at, client, current }) =>
    `<li>${created_at} ${escape(client?.user_agent ?? "")} ${current ? "<b>this one</b>" : ""}</li>`;
  res.send(page(req.session, `<ul id="sessions">${(await req.session.everywhere()).map(row).join("")}</ul>`));
}));

// Whoever gives a name is believed: this is about sessions, not passwords.
app.post("/login", route(async (req, res) => {
  if (req.body?.user) await req.session.login(String(req.body.user).slice(0, 60));
  res.redirect(303, "/account");
}));

app.post("/logout", route(async (req, res) => {
  await req.session.logout();
  res.redirect(303, "/account");
}));

app.post("/logout-everywhere", route(async (req, res) => {
  await req.session.logoutEverywhere();
  res.redirect(303, "/account");
}));

const escape = (text) => text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);

const page = ({ id, user }, more = "") => `<!doctype html><meta charset="utf-8"><title>Express</title>
<h1>Express</h1>
<p>Session: <code id="session">${escape(id ?? "none")}</code>, user: <b id="user">${escape(user ?? "nobody")}</b></p>
${more}
<form method="post" action="/login"><input name="user" aria-label="name"><button>Log in</button></form>
<form method="post" action="/logout"><button>Log out</button></form>
<form method="post" action="/logout-everywhere"><button>Log out everywhere</button></form>
<p><a href="/">home</a> <a href="/account">account</a> <a href="/sessions">my sessions</a></p>`;

const server = app.listen(PORT, HOST, () => console.log(`express listens on http://localhost:${server.address().port}`));
