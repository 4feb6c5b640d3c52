// Chromium for the tests, and a small static server for pages that are not the server's own.

import { readFile } from "node:fs/promises";
import http from "node:http";

import { chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** A headless browser; the caller closes it. */
export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS });
}

const TYPES = { html: "text/html; charset=utf-8", js: "text/javascript; charset=utf-8" };

/** Serves these files (path to URL of a file, or to text) on a free port of this machine. */
export async function serveFiles(files) {
  const server = http.createServer(async (request, response) => {
    const found = files[request.url.split("?")[0]];
    if (found === undefined) {
      response.writeHead(404).end();
      return;
    }
    const body = found instanceof URL ? await readFile(found) : found;
    const ending = found instanceof URL ? found.pathname.split(".").pop() : "html";
    response.writeHead(200, { "content-type": TYPES[ending] ?? TYPES.js }).end(body);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    stop: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}
