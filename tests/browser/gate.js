// A proxy in front of sessiond, with which a test decides what happens before a request reaches it.

import { once } from "node:events";
import { createServer, request as ask } from "node:http";

/** Starts it. It awaits `before(request)` and then passes the request on to `target`. */
export async function startGate(target, before) {
  const server = createServer(async (request, response) => {
    try {
      await before(request);
    } catch (error) {
      return response.destroy(error);
    }
    const { method, headers } = request;
    const onward = ask(target + request.url, { method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.rawHeaders);
      answer.pipe(response);
    });
    onward.once("error", () => response.destroy());
    request.pipe(onward);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    stop() {
      server.close();
      server.closeAllConnections();
    },
  };
}
