// What no well-behaved SDK does: raw frames, each with its exact answer.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { Centrifuge } from "centrifuge";
import { WebSocket } from "ws";

import { fixture } from "../lib/fixture.js";
import { Node, TOKEN_SECRET } from "../lib/node.js";
import { event } from "../lib/scenarios.js";
import { token } from "../lib/token.js";

/** Opens a socket; resolves with it once it is open. */
function open(url, options = {}) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, options);
    socket.once("open", () => resolve(socket));
    socket.once("error", reject);
  });
}

/** Code and reason of the close. */
function closed(socket) {
  return new Promise((resolve) => socket.once("close", (code, reason) => resolve([code, reason.toString()])));
}

function message(socket) {
  return new Promise((resolve) => socket.once("message", (data) => resolve(data.toString())));
}

describe("raw frames", () => {
  let world;
  before(async () => {
    world = await fixture();
  });
  after(() => world?.stop());

  const connect = () => JSON.stringify({ id: 1, connect: { token: token("ada") } });

  for (const [what, frames, expected] of [
    ["a command before connect", ['{"id":1,"subscribe":{"channel":"open:x"}}'], [3501, "bad request"]],
    ["a frame that is not JSON", ["{oops"], [3501, "bad request"]],
    ["an empty frame", [""], [3501, "bad request"]],
    ["a second connect", [connect, connect], [3501, "bad request"]],
    ["a command without a known member", [connect, '{"id":2,"dance":{}}'], [3501, "bad request"]],
    ["a pong that nobody asked for", [connect, "{}"], [3501, "bad request"]],
    ["a blank line between commands", [() => `${connect()}\n\n{"id":2,"rpc":{}}`], [3501, "bad request"]],
  ]) {
    it(`${what} ends the connection with ${expected[0]}`, async () => {
      const socket = await open(world.node.url);
      const end = closed(socket);
      for (const frame of frames) socket.send(typeof frame === "function" ? frame() : frame);
      assert.deepEqual(await end, expected);
    });
  }

  it("a frame above the limit ends with 1009", async () => {
    const socket = await open(world.node.url);
    const end = closed(socket);
    socket.on("error", () => {});
    socket.send(`{"id":1,"connect":{"data":"${"x".repeat(70_000)}"}}`);
    assert.equal((await end)[0], 1009);
  });

  it("a client that does not answer pings is closed with 3012", async () => {
    const socket = await open(world.node.url);
    const end = closed(socket);
    socket.send(connect());
    assert.deepEqual(await end, [3012, "no pong"]);
  });

  it("commands of one frame are answered in order", async () => {
    const socket = await open(world.node.url);
    const lines = [];
    const done = new Promise((resolve) => {
      socket.on("message", (data) => {
        lines.push(...data.toString().split("\n"));
        if (lines.length >= 3) resolve();
      });
    });
    socket.send(`${connect()}\n{"id":2,"subscribe":{"channel":"open:x"}}\n{"id":3,"publish":{"channel":"closed:x","data":{}}}`);
    await done;
    const replies = lines.map((line) => JSON.parse(line));
    assert.deepEqual(replies.map((reply) => reply.id), [1, 2, 3]);
    assert.equal(replies[0].connect.ping, 1);
    assert.equal(replies[0].connect.pong, true);
    assert.deepEqual(replies[1].subscribe, {});
    assert.deepEqual(replies[2].error, { code: 103, message: "permission denied" });
    socket.close();
  });

  it("the Protobuf subprotocol is echoed and JSON needs none", async () => {
    const protobuf = await new Promise((resolve, reject) => {
      const socket = new WebSocket(world.node.url, "centrifuge-protobuf");
      socket.once("open", () => resolve(socket));
      socket.once("error", reject);
    });
    assert.equal(protobuf.protocol, "centrifuge-protobuf");
    const json = await open(world.node.url);
    assert.equal(json.protocol, "");
    protobuf.close();
    json.close();
  });

  it("an upgrade from a foreign origin is refused with 403", async () => {
    const refused = new Promise((resolve) => {
      const socket = new WebSocket(world.node.url, { origin: "https://elsewhere.example" });
      socket.once("unexpected-response", (_, response) => resolve(response.statusCode));
      socket.once("error", () => {});
    });
    assert.equal(await refused, 403);
  });

  it("a connection that never says who it is goes with 3502", { timeout: 30_000 }, async () => {
    const node = await Node.start({ client: { stale_close_delay: "1s", token: { hmac_secret_key: TOKEN_SECRET } } });
    try {
      assert.deepEqual(await closed(await open(node.url)), [3502, "stale"]);
    } finally {
      await node.stop();
    }
  });
});

describe("a server that ends", () => {
  it("tells its clients with 3001, and the SDK comes back by itself", async () => {
    const node = await Node.start({ client: { token: { hmac_secret_key: TOKEN_SECRET } } });
    const client = new Centrifuge(node.url, { websocket: WebSocket, token: token("ada") });
    try {
      const connected = event(client, "connected");
      client.connect();
      await connected;
      const gone = event(client, "connecting", (context) => context.code !== 0);
      node.signal("SIGTERM");
      const { code, reason } = await gone;
      assert.deepEqual([code, reason], [3001, "shutdown"]);
    } finally {
      client.disconnect();
      assert.deepEqual(await node.exited, { code: 0, signal: null });
      await node.stop();
    }
  });
});
