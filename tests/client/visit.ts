// One visit, as a backend sees it. The types are openapi-typescript's, from openapi.yaml.

import createClient from "openapi-fetch";
import type { components, paths } from "./generated/sessiond.js";

type Session = components["schemas"]["Session"];
type Problem = components["schemas"]["Problem"];

export async function visit(baseUrl: string) {
  const sessiond = createClient<paths>({ baseUrl });

  // Somebody arrives and puts tea into a cart: issue a session.
  const issued = session(await sessiond.POST("/v1/sessions", { body: { data: { cart: ["tea"] } } }));
  let cookie = cookieAfter(issued);

  // On every request: hand over the browser's Cookie header, and get the session.
  const resolved = session(await sessiond.GET("/v1/session", { headers: { cookie } }));

  // Change the data by merge patch: name only what changes.
  const updated = session(
    await sessiond.PATCH("/v1/session/data", {
      headers: { cookie, "content-type": "application/merge-patch+json" },
      body: { theme: "dark" },
    }),
  );

  // Ada logs in: regenerate. New id and new cookie, same data, and the user is bound to it.
  const loggedIn = session(
    await sessiond.POST("/v1/session/regenerate", { headers: { cookie }, body: { user_id: "ada" } }),
  );
  cookie = cookieAfter(loggedIn);

  // Log out: revoke. Pass on the Set-Cookie header, which makes the browser forget its cookie.
  const revoked = await sessiond.DELETE("/v1/session", { headers: { cookie } });
  if (revoked.error) throw failure(revoked.error);
  const forget = revoked.response.headers.getSetCookie();

  // From now on the cookie opens nothing.
  const { error: refused } = await sessiond.GET("/v1/session", { headers: { cookie } });

  return { issued, resolved, updated, loggedIn, forget, refused };
}

/** The session of an answer, unless it is a problem. */
function session({ data, error }: { data?: Session; error?: Problem }): Session {
  if (error) throw failure(error);
  if (!data) throw new Error("there is nothing to store yet, so there is no session");
  return data;
}

function failure({ code, detail }: Problem): Error {
  return new Error(`${code}: ${detail}`);
}

/** What the browser sends from now on. In a backend: pass `set_cookie` on to it as a Set-Cookie header. */
function cookieAfter({ set_cookie }: Session): string {
  const [cookie] = set_cookie?.split(";") ?? [];
  if (!cookie) throw new Error("the browser's cookie stays as it is");
  return cookie;
}
