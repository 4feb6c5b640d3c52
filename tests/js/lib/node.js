// One running server process, as a test wants it: free ports, a scratch data directory, stopped at the end.

import { spawn, execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import readline from "node:readline";
import { fileURLToPath } from "node:url";

/** The top of the tree. */
export const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

const BINARY = process.env.TIDEGATE_BIN ?? path.join(process.env.CARGO_TARGET_DIR ?? path.join(ROOT, "target"), "debug/tidegate");
const PLUGINS = path.join(path.dirname(path.dirname(BINARY)), "wasm32-unknown-unknown/plugin");

/** The secret that the test servers check connection tokens with. */
export const TOKEN_SECRET = "a-secret-of-the-tests-with-more-than-32-bytes";

/** A built plugin or test guest, by its package's name. */
export function wasm(name) {
  return path.join(PLUGINS, `${name.replaceAll("-", "_")}.wasm`);
}

export class Node {
  #child;
  #exited;

  /** Starts a server with this configuration (an object) and waits until it listens. */
  static async start(config, { env = {} } = {}) {
    const node = new Node();
    node.scratch = await mkdtemp(path.join(tmpdir(), "tidegate-js-"));
    const file = path.join(node.scratch, "config.json");
    const whole = {
      ...config,
      http_server: { address: "127.0.0.1", port: 0, ...config.http_server },
      admin_api: { port: 0, ...config.admin_api },
    };
    await writeFile(file, JSON.stringify(whole));
    node.dataDir = path.join(node.scratch, "data");
    node.#child = spawn(BINARY, ["serve", "--announce", "json", "--config", file, "--data-dir", node.dataDir], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...env },
      cwd: ROOT,
    });
    node.log = "";
    node.#child.stderr.on("data", (chunk) => (node.log = (node.log + chunk).slice(-20_000)));
    node.#exited = new Promise((resolve) => node.#child.once("exit", (code, signal) => resolve({ code, signal })));
    node.#child.once("error", () => {});
    const lines = readline.createInterface({ input: node.#child.stdout });
    await new Promise((resolve, reject) => {
      const failed = () => reject(new Error(`${BINARY} ended before it listened:\n${node.log}`));
      node.#child.once("error", (error) => reject(new Error(`${BINARY} cannot be started (${error.message}); cargo xtask test builds it`)));
      node.#child.once("exit", failed);
      lines.on("line", (line) => {
        let event;
        try {
          event = JSON.parse(line);
        } catch {
          return;
        }
        if (event.event === "keys") Object.assign(node, { adminKey: event.admin_key, apiKey: event.api_key });
        if (event.event === "listening") {
          Object.assign(node, { client: event.client, admin: event.admin });
          node.#child.off("exit", failed);
          resolve();
        }
      });
    });
    return node;
  }

  get url() {
    return `ws://${this.client}/connection/websocket`;
  }

  /** Calls a method of the server API; the envelope is the answer. */
  async api(method, body) {
    const answer = await fetch(`http://${this.client}/api/${method}`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-api-key": this.apiKey },
      body: JSON.stringify(body),
    });
    if (!answer.ok) throw new Error(`/api/${method} answered ${answer.status}: ${await answer.text()}`);
    const envelope = await answer.json();
    if (envelope.error) throw new Error(`/api/${method}: ${envelope.error.code} ${envelope.error.message}`);
    return envelope.result;
  }

  /** Runs the command line against this server and returns what it printed. */
  async cli(...args) {
    const env = {
      ...process.env,
      TIDEGATE_ADMIN_KEY: this.adminKey,
      TIDEGATE_ADMIN_URL: `http://${this.admin}`,
      TIDEGATE_API_KEY: this.apiKey,
      TIDEGATE_URL: `http://${this.client}`,
    };
    return new Promise((resolve, reject) => {
      execFile(BINARY, args, { env }, (error, stdout, stderr) => {
        if (error) reject(new Error(`tidegate ${args.join(" ")}: ${stdout}${stderr}`));
        else resolve(stdout);
      });
    });
  }

  /** Pushes a plugin, makes it the active version and binds it, if a binding is given. */
  async push(name, file, binding, config) {
    const args = ["plugin", "push", file, "--name", name, "--activate"];
    if (binding) args.push("--bind", binding);
    if (config) {
      const where = path.join(this.scratch, `${name}.json`);
      await writeFile(where, JSON.stringify(config));
      args.push("--config", `@${where}`);
    }
    return this.cli(...args);
  }

  /** Sends a signal without waiting. */
  signal(name) {
    this.#child.kill(name);
  }

  /** How the process ended. */
  get exited() {
    return this.#exited;
  }

  async stop() {
    const hurry = setTimeout(() => this.#child.kill("SIGKILL"), 3_000);
    this.#child.kill("SIGTERM");
    this.#child.kill("SIGTERM"); // The second one skips the wait for clients.
    await this.#exited;
    clearTimeout(hurry);
    await rm(this.scratch, { recursive: true, force: true });
  }
}
