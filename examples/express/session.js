// The browser's session on every backend, kept by sessiond. Copy this file into a project; it needs nothing but Node.
//
//   app.use(session());                              before the routes
//   req.session.id, .user, .data                     null, null and {} while there is none
//   await req.session.update({ theme: "dark" })      a merge patch; issues a session when there is none yet
//   await req.session.update((data) => patch)        the same for a patch that depends on what is there: never lost
//   await req.session.login("ada")                   gives the session a new id and binds the user
//   await req.session.logout()
//   await req.session.everywhere()                   lists the user's sessions (needs a key of scope admin)
//   await req.session.logoutEverywhere()             ends all of them (needs a key of scope admin)
//
// Each of these can reject: with Unavailable (503), or, update only, with SessionEnded (409). Express 5 passes a rejection in
// an async handler to the error handlers. Express 4 does not, and the process ends: catch it there, and call next(error).

const URL_OF_SESSIOND = process.env.SESSIOND_URL ?? "http://127.0.0.1:8080";
const KEY = process.env.SESSIOND_KEY;
const DEADLINE_MS = 2000;

// Express's own error handler answers with the `status` and the `headers` of an error.

/** It is unknown whether there is a session. Do not treat this as "not logged in". */
export class Unavailable extends Error {
  status = 503;
  headers = { "Retry-After": "1" };
}

/**
 * The session ended during this request: by a logout, or by a login in another request, which gave it a new id. The update is
 * not made. A new session for it would replace the login in the browser. The browser's next request has the right session.
 */
export class SessionEnded extends Error {
  status = 409;
}

export function session() {
  return async (req, res, next) => {
    req.session = new Session(req, res);
    try {
      await req.session.load();
    } catch (error) {
      return next(error);
    }
    next();
  };
}

class Session {
  id = null;
  user = null;
  data = {};
  #ended = false;
  #etag;
  #cookie;
  #setCookie;
  #client;
  #res;

  constructor(req, res) {
    this.#cookie = req.headers.cookie;
    this.#client = { ip: req.ip, user_agent: req.get("user-agent")?.slice(0, 1024) };
    this.#res = res;
  }

  /** Resolves the browser's cookie; without one there is nothing to ask. */
  async load() {
    if (this.#cookie) await this.#call("GET", "/v1/session");
  }

  /** Rejects with SessionEnded if the session ended after the request began. If there was none then, it issues one. */
  async update(change) {
    const patch = typeof change === "function" ? change : () => change;
    if (!this.id && !this.#ended) return this.#issue({ data: applied(patch({})) });
    while (this.id) {
      const headers = { "content-type": "application/merge-patch+json" };
      // A patch that depends on the data is valid only for the data that it was made from.
      if (typeof change === "function") headers["if-match"] = this.#etag;
      const status = await this.#call("PATCH", "/v1/session/data", patch(this.data), headers);
      if (status === 200) return;
      // 412: another request was quicker.
      if (status === 412) await this.load();
    }
    this.#ended = true;
    // The cookie of an extended session that has ended since.
    this.#pass();
    throw new SessionEnded("the session has ended during this request: try again");
  }

  /** Keeps the data of an anonymous session. sessiond drops the data of another user. */
  async login(user) {
    if (this.id) await this.#call("POST", "/v1/session/regenerate", { user_id: user, client: this.#client });
    // There was no session, or it has ended.
    if (this.user !== user) await this.#issue({ user_id: user });
  }

  async logout() {
    await this.#call("DELETE", "/v1/session");
  }

  async everywhere() {
    if (this.user === null) return [];
    const answer = await ask("GET", `${this.#path()}?current=${encodeURIComponent(this.id)}`);
    return (await answer.json()).sessions;
  }

  async logoutEverywhere() {
    if (this.user !== null) await ask("DELETE", this.#path());
    await this.logout();
  }

  #path() {
    return `/v1/users/${encodeURIComponent(this.user)}/sessions`;
  }

  #issue(wanted) {
    return this.#call("POST", "/v1/sessions", { ...wanted, client: this.#client });
  }

  /** Asks for the session that the cookie opens, takes over what is answered, and passes cookies on to the browser. */
  async #call(method, path, body, headers) {
    const answer = await ask(method, path, body, { ...headers, ...(this.#cookie && { cookie: this.#cookie }) });
    for (const cookie of answer.headers.getSetCookie()) {
      this.#pass(cookie);
      this.#cookie = cookie.split(";")[0];
    }
    if (answer.status === 412) return 412;
    const { id = null, user_id = null, data = {} } = answer.ok && answer.status !== 204 ? await answer.json() : {};
    Object.assign(this, { id, user: user_id, data });
    if (id) this.#ended = false;
    this.#etag = answer.headers.get("etag");
    return answer.status;
  }

  /** Passes this cookie on to the browser, or none, instead of the one before. */
  #pass(cookie) {
    const others = [this.#res.getHeader("set-cookie") ?? []].flat().filter((other) => other !== this.#setCookie);
    this.#res.setHeader("set-cookie", cookie ? [...others, cookie] : others);
    this.#setCookie = cookie;
  }
}

/** A merge patch of nothing: what it would take away is not there. */
function applied(patch) {
  return Object.fromEntries(Object.entries(patch).filter(([, value]) => value !== null));
}

async function ask(method, path, body, headers = {}) {
  const all = { "content-type": "application/json", ...headers, ...(KEY && { authorization: `Bearer ${KEY}` }) };
  const signal = AbortSignal.timeout(DEADLINE_MS);
  const request = { method, headers: all, body: body && JSON.stringify(body), signal };
  const answer = await fetch(URL_OF_SESSIOND + path, request).catch((error) => {
    throw new Unavailable("the session service does not answer", { cause: error });
  });
  if (answer.status === 503) throw new Unavailable("the session store is away");
  // 401: no session. 412: another request was quicker. Anything else is a mistake of ours.
  if (!answer.ok && ![401, 412].includes(answer.status)) throw new Error(`sessiond: ${(await answer.json()).detail}`);
  return answer;
}
