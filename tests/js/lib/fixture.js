// The server that the scenarios run against, and what they ask of the test's process.

import { Node, TOKEN_SECRET, wasm } from "./node.js";
import { Proxy } from "./proxy.js";
import { token } from "./token.js";

const MEMBER = { allow_subscribe_for_client: true, allow_publish_for_subscriber: true };
const KEPT = { ...MEMBER, history_ttl: "60s", force_recovery: true, allow_history_for_subscriber: true };

/** A server with a namespace for each kind of channel; origins are those allowed besides its own. */
export async function fixture({ origins = [] } = {}) {
  const node = await Node.start({
    client: {
      allowed_origins: origins,
      token: { hmac_secret_key: TOKEN_SECRET },
      ping_interval: "1s",
      pong_timeout: "500ms",
      expired_close_delay: "1s",
    },
    channel: {
      namespaces: [
        { name: "open", ...MEMBER },
        { name: "quiet", allow_subscribe_for_client: true },
        { name: "closed" },
        { name: "kept", history_size: 100, ...KEPT },
        { name: "seen", ...MEMBER, presence: true, allow_presence_for_subscriber: true, join_leave: true },
        { name: "short", history_size: 3, ...KEPT },
      ],
    },
  });
  await node.push("echo", wasm("guest-rpc-echo"), "rpc@rpc:echo");
  const proxy = await Proxy.start(node.client);
  const actions = {
    token: (user, seconds) => token(user, seconds),
    forgedToken: (user) => token(user, 60, {}, "a-secret-of-somebody-else-with-32-bytes-or-more"),
    api: (method, body) => node.api(method, body),
    cut: () => proxy.cut(),
    mend: () => proxy.mend(),
  };
  return {
    node,
    proxy,
    host: async (name, ...args) => (await actions[name](...args)) ?? null,
    async stop() {
      await proxy.stop();
      await node.stop();
    },
  };
}
