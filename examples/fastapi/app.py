"""A second backend, in Python: the same session, the same user."""

import os
from html import escape

import uvicorn
from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from session import session

app = FastAPI(openapi_url=None)
app.middleware("http")(session)


@app.get("/")
async def home(request: Request):
    await request.state.session.update(lambda data: {"views": data.get("views", 0) + 1})
    views = request.state.session.data["views"]
    return page(request, f'<p>Page views, on all backends together: <b id="views">{views}</b></p>')


@app.get("/account")
async def account(request: Request):
    return page(request)


@app.get("/sessions")
async def sessions(request: Request):
    opened = request.state.session
    if not opened.user:
        return RedirectResponse("/account", 303)
    rows = "".join(
        f"<li>{row['created_at']} {escape((row['client'] or {}).get('user_agent', ''))}"
        f"{' <b>this one</b>' if row['current'] else ''}</li>"
        for row in await opened.everywhere()
    )
    return page(request, f'<ul id="sessions">{rows}</ul>')


# Whoever gives a name is believed: this is about sessions, not passwords.
@app.post("/login")
async def login(request: Request, user: str = Form(min_length=1, max_length=60)):
    await request.state.session.login(user)
    return RedirectResponse("/account", 303)


@app.post("/logout")
async def logout(request: Request):
    await request.state.session.logout()
    return RedirectResponse("/account", 303)


@app.post("/logout-everywhere")
async def logout_everywhere(request: Request):
    await request.state.session.logout_everywhere()
    return RedirectResponse("/account", 303)


def page(request: Request, more=""):
    opened = request.state.session
    return HTMLResponse(f"""<!doctype html><meta charset="utf-8"><title>FastAPI</title>
<h1>FastAPI</h1>
<p>Session: <code id="session">{escape(opened.id or "none")}</code>, user: <b id="user">{escape(opened.user or "nobody")}</b></p>
{more}
<form method="post" action="/login"><input name="user" aria-label="name"><button>Log in</button></form>
<form method="post" action="/logout"><button>Log out</button></form>
<form method="post" action="/logout-everywhere"><button>Log out everywhere</button></form>
<p><a href="/">home</a> <a href="/account">account</a> <a href="/sessions">my sessions</a></p>""")


if __name__ == "__main__":
    port = int(os.environ.get("PORT", 3002))
    print(f"fastapi listens on http://localhost:{port}", flush=True)
    uvicorn.run(app, host=os.environ.get("HOST", "127.0.0.1"), port=port, log_level="warning")
