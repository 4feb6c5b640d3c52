// The official SDK in Chromium, in both codecs: the same scenarios as in Node, run inside a page.

import { after, before, describe, it } from "node:test";

import { launch, serveFiles } from "../lib/browser.js";
import { fixture } from "../lib/fixture.js";
import { scenarios } from "../lib/scenarios.js";

const page = (bundle) => `<!doctype html><meta charset="utf-8"><title>scenarios</title><script src="/${bundle}"></script>
<script type="module">
  import { scenarios } from "/scenarios.js";
  const isProtobuf = ${JSON.stringify(bundle.includes("protobuf"))};
  window.runScenario = async (claim, { url, cutUrl }) => {
    const clients = [];
    const t = {
      client: ({ url: other, ...options }) => {
        const client = new Centrifuge(other ?? url, { minReconnectDelay: 50, maxReconnectDelay: 200, ...options });
        clients.push(client);
        return client;
      },
      cutUrl,
      encode: (value) => (isProtobuf ? new TextEncoder().encode(JSON.stringify(value)) : value),
      decode: (data) => (isProtobuf ? JSON.parse(new TextDecoder().decode(data)) : data),
      host: (name, ...args) => window.askHost(name, args),
    };
    try {
      await scenarios[claim](t);
    } finally {
      clients.forEach((client) => client.disconnect());
    }
  };
  document.title = "ready";
</script>`;

const dist = (name) => new URL(`../node_modules/centrifuge/dist/${name}`, import.meta.url);

describe("the SDK in Chromium", () => {
  let files;
  let browser;
  let world;

  before(async () => {
    files = await serveFiles({
      "/json.html": page("centrifuge.js"),
      "/protobuf.html": page("centrifuge.protobuf.js"),
      "/centrifuge.js": dist("centrifuge.js"),
      "/centrifuge.protobuf.js": dist("centrifuge.protobuf.js"),
      "/scenarios.js": new URL("../lib/scenarios.js", import.meta.url),
    });
    [browser, world] = await Promise.all([launch(), fixture({ origins: [files.origin] })]);
  });

  after(async () => {
    await browser?.close();
    await world?.stop();
    await files?.stop();
  });

  for (const codec of ["json", "protobuf"]) {
    describe(codec, () => {
      let tab;
      before(async () => {
        tab = await browser.newPage();
        await tab.exposeFunction("askHost", (name, args) => world.host(name, ...args));
        await tab.goto(`${files.origin}/${codec}.html`);
        await tab.waitForFunction(() => document.title === "ready");
      });
      after(() => tab?.close());

      for (const claim of Object.keys(scenarios)) {
        it(claim, () =>
          tab.evaluate(([name, where]) => window.runScenario(name, where), [claim, { url: world.node.url, cutUrl: world.proxy.url }]),
        );
      }
    });
  }
});
