"""The browser's session on every backend, kept by sessiond. Copy this file into a project; it needs httpx.

    app.middleware("http")(session)                             before the routes
    request.state.session.id, .user, .data                      None, None and {} while there is none
    await request.state.session.update({"theme": "dark"})       a merge patch; issues a session when there is none yet
    await request.state.session.update(lambda data: patch)      for a patch that depends on what is there: never lost
    await request.state.session.login("ada")                    gives the session a new id and binds the user
    await request.state.session.logout()
    await request.state.session.everywhere()                    lists the user's sessions (needs a key of scope admin)
    await request.state.session.logout_everywhere()             ends all of them (needs a key of scope admin)

Each of these can raise Unavailable, and `update` also SessionEnded. If the route does not catch them, the middleware answers
503 and 409.
"""

import os
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import quote

import httpx
from fastapi import Request, Response

KEY = os.environ.get("SESSIOND_KEY")
# One client for every browser: it must never keep a cookie, and it takes none from anywhere.
NO_COOKIES = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
sessiond = httpx.AsyncClient(
    cookies=NO_COOKIES,
    base_url=os.environ.get("SESSIOND_URL", "http://127.0.0.1:8080"),
    headers={"Authorization": f"Bearer {KEY}"} if KEY else {},
    timeout=2.0,
)


class Unavailable(Exception):
    """It is unknown whether there is a session. Do not treat this as "not logged in"."""


class SessionEnded(Exception):
    """The session ended during this request: by a logout, or by a login in another request, which gave it a new id.

    The update is not made. A new session for it would replace the login in the browser. The browser's next request has the
    right session.
    """


async def session(request: Request, call_next):
    opened = request.state.session = Session(request)
    try:
        await opened.load()
        response = await call_next(request)
    except Unavailable:
        response = Response("The session service is unavailable.", 503, {"Retry-After": "1"}, "text/plain")
    except SessionEnded:
        response = Response("The session has ended during this request: try again.", 409, media_type="text/plain")
    for cookie in opened.set_cookies.values():
        response.headers.append("set-cookie", cookie)
    return response


class Session:
    def __init__(self, request: Request):
        self.id, self.user, self.data = None, None, {}
        self.set_cookies = {}
        self._ended = False
        self._cookie, self._etag = request.headers.get("cookie"), None
        self._client = {
            "ip": request.client.host if request.client else None,
            "user_agent": request.headers.get("user-agent", "")[:1024],
        }

    async def load(self):
        """Resolves the browser's cookie; without one there is nothing to ask."""
        if self._cookie:
            await self._call("GET", "/v1/session")

    async def update(self, change):
        """Raises SessionEnded if the session ended after the request began. If there was none then, it issues one."""
        patch = change if callable(change) else lambda data: change
        if not self.id and not self._ended:
            # A merge patch of nothing: what it would take away is not there.
            await self._issue({"data": {name: value for name, value in patch({}).items() if value is not None}})
            return
        while self.id:
            headers = {"content-type": "application/merge-patch+json"}
            if callable(change):
                # A patch that depends on the data is valid only for the data that it was made from.
                headers["if-match"] = self._etag
            status = await self._call("PATCH", "/v1/session/data", patch(self.data), headers)
            if status == 200:
                return
            if status == 412:  # Another request was quicker.
                await self.load()
        self._ended = True
        # The cookie of an extended session that has ended since.
        self.set_cookies.clear()
        raise SessionEnded

    async def login(self, user: str):
        """Keeps the data of an anonymous session. sessiond drops the data of another user."""
        if self.id:
            await self._call("POST", "/v1/session/regenerate", {"user_id": user, "client": self._client})
        # There was no session, or it has ended.
        if self.user != user:
            await self._issue({"user_id": user})

    async def logout(self):
        await self._call("DELETE", "/v1/session")

    async def everywhere(self):
        if self.user is None:
            return []
        return (await _ask("GET", self._path(), params={"current": self.id})).json()["sessions"]

    async def logout_everywhere(self):
        if self.user is not None:
            await _ask("DELETE", self._path())
        await self.logout()

    def _path(self):
        return f"/v1/users/{quote(self.user, safe='')}/sessions"

    async def _issue(self, wanted):
        await self._call("POST", "/v1/sessions", wanted | {"client": self._client})

    async def _call(self, method, path, body=None, headers={}):
        """Asks for the session that the cookie opens, takes over what is answered, and keeps cookies for the browser."""
        headers = headers | ({"cookie": self._cookie} if self._cookie else {})
        answer = await _ask(method, path, json=body, headers=headers)
        for cookie in answer.headers.get_list("set-cookie"):
            self.set_cookies[cookie.split("=")[0]] = cookie
            self._cookie = cookie.split(";")[0]
        if answer.status_code == 412:
            return 412
        told = answer.json() if answer.is_success and answer.status_code != 204 else {}
        self.id, self.user, self.data = told.get("id"), told.get("user_id"), told.get("data", {})
        if self.id:
            self._ended = False
        self._etag = answer.headers.get("etag")
        return answer.status_code


async def _ask(method, path, **request):
    try:
        answer = await sessiond.request(method, path, **request)
    except httpx.TransportError as error:
        raise Unavailable from error
    if answer.status_code == 503:
        raise Unavailable
    # 401: no session. 412: another request was quicker. Anything else is a mistake in this program or its configuration.
    if answer.is_error and answer.status_code not in (401, 412):
        raise RuntimeError(f"sessiond: {answer.json()['detail']}")
    return answer
