// Passes requests on by a client of plain Node, for .ci/table.py: table_node.mjs URL PORT CLIENT
// CLIENT is fetch, request (http.request), or agent: the same on one kept connection.
import http from "node:http";
import { Readable } from "node:stream";

const [url, port, client] = process.argv.slice(2);
const agent = client === "agent" ? new http.Agent({ keepAlive: true, maxSockets: 1 }) : undefined;

async function byFetch(request, response) {
  const { host, connection, expect, "content-length": length, "transfer-encoding": coding, ...headers } = request.headers;
  const body = coding ? Readable.toWeb(request) : length && Buffer.concat(await request.toArray());
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  const got = await fetch(url + request.url, { method: request.method, headers, body, duplex: "half", signal: gone.signal });
  response.writeHead(got.status, [...got.headers].flat());
  for await (const piece of got.body ?? []) response.write(piece);
  response.end();
}

async function byRequest(request, response) {
  const { host, ...headers } = request.headers;
  const passed = http.request(url + request.url, { method: request.method, headers, agent }, (got) => {
    response.writeHead(got.statusCode, got.headers);
    got.pipe(response);
  });
  response.on("close", () => passed.destroy());
  request.pipe(passed.on("error", (error) => response.destroy(error)));
}

const pass = client === "fetch" ? byFetch : byRequest;
http.createServer((request, response) => pass(request, response).catch(() => response.destroy())).listen(port, "127.0.0.1");
