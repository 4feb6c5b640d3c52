// The official SDK in Node, over the package `ws`, in both codecs.

import { after, before, describe, it } from "node:test";

import { Centrifuge as JsonCentrifuge } from "centrifuge";
import { Centrifuge as ProtobufCentrifuge } from "centrifuge/build/protobuf";
import { WebSocket } from "ws";

import { fixture } from "../lib/fixture.js";
import { scenarios } from "../lib/scenarios.js";

const QUICK = { minReconnectDelay: 50, maxReconnectDelay: 200, websocket: WebSocket };

const CODECS = {
  json: { Centrifuge: JsonCentrifuge, encode: (value) => value, decode: (data) => data },
  protobuf: {
    Centrifuge: ProtobufCentrifuge,
    encode: (value) => new TextEncoder().encode(JSON.stringify(value)),
    decode: (data) => JSON.parse(new TextDecoder().decode(data)),
  },
};

for (const [codec, { Centrifuge, encode, decode }] of Object.entries(CODECS)) {
  describe(`the SDK in Node, ${codec}`, () => {
    let world;
    before(async () => {
      world = await fixture();
    });
    after(() => world?.stop());

    for (const [claim, run] of Object.entries(scenarios)) {
      it(claim, async () => {
        const clients = [];
        const t = {
          client: ({ url, ...options }) => {
            const client = new Centrifuge(url ?? world.node.url, { ...QUICK, ...options });
            clients.push(client);
            return client;
          },
          cutUrl: world.proxy.url,
          encode,
          decode,
          host: world.host,
        };
        try {
          await run(t);
        } finally {
          clients.forEach((client) => client.disconnect());
        }
      });
    }
  });
}
