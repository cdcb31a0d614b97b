// What the compiler has to refuse. It is compiled, and never run.

import createClient from "openapi-fetch";
import type { components, paths } from "./generated/sessiond.js";

const sessiond = createClient<paths>({ baseUrl: "" });

// @ts-expect-error: it is called user_id
const issue: components["schemas"]["Issue"] = { userId: "ada" };

// @ts-expect-error: it is a string
await sessiond.POST("/v1/sessions", { body: { ...issue, user_id: 7 } });

// @ts-expect-error: data is an object
await sessiond.PUT("/v1/session/data", { body: "dark" });

// @ts-expect-error: never, or force
await sessiond.GET("/v1/session", { params: { query: { touch: "always" } } });

// @ts-expect-error: there is no such path
await sessiond.GET("/v1/user");

const { data, error } = await sessiond.GET("/v1/session");
if (data) {
  // @ts-expect-error: nobody may have logged in
  data.user_id.length;
  // @ts-expect-error: what the data holds is for its reader to check
  data.data["cart"].length;
} else {
  // @ts-expect-error: a problem has a code
  error.message;
}
