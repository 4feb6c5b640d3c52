// A TCP proxy in front of a server, so that a test can cut connections for real.

import net from "node:net";

export class Proxy {
  #server;
  #pairs = new Set();
  #isOpen = true;

  static async start(target) {
    const proxy = new Proxy();
    const [host, port] = target.split(":");
    proxy.#server = net.createServer((near) => {
      if (!proxy.#isOpen) {
        near.destroy();
        return;
      }
      const far = net.connect(Number(port), host);
      const pair = { near, far };
      proxy.#pairs.add(pair);
      const end = () => {
        proxy.#pairs.delete(pair);
        near.destroy();
        far.destroy();
      };
      near.on("error", end).on("close", end);
      far.on("error", end).on("close", end);
      near.pipe(far);
      far.pipe(near);
    });
    await new Promise((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    proxy.address = `127.0.0.1:${proxy.#server.address().port}`;
    return proxy;
  }

  get url() {
    return `ws://${this.address}/connection/websocket`;
  }

  /** Breaks every connection and refuses new ones until `mend`. */
  cut() {
    this.#isOpen = false;
    for (const { near, far } of [...this.#pairs]) {
      near.resetAndDestroy();
      far.resetAndDestroy();
    }
  }

  mend() {
    this.#isOpen = true;
  }

  async stop() {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
