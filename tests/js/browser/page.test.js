// The demonstration page in two windows of Chromium, with the demonstration's own configuration and plugins.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, it } from "node:test";

import { launch } from "../lib/browser.js";
import { Node, ROOT, wasm } from "../lib/node.js";

const SECRET = randomBytes(32).toString("hex");
const SHOTS = process.env.TIDEGATE_SCREENSHOTS;

/** The demonstration as `cargo xtask run` starts it, on free ports. */
async function demo() {
  const vendor = path.join(ROOT, "demo/page/vendor");
  await mkdir(vendor, { recursive: true });
  await copyFile(new URL("../node_modules/centrifuge/dist/centrifuge.js", import.meta.url), path.join(vendor, "centrifuge.js"));
  const node = await Node.start(
    {
      client: { command_rate: 50 },
      channel: {
        namespaces: [
          {
            name: "chat",
            history_size: 100,
            history_ttl: "1h",
            force_recovery: true,
            allow_subscribe_for_client: true,
            allow_publish_for_subscriber: true,
            allow_history_for_subscriber: true,
          },
        ],
      },
      plugins: { name_in_errors: true },
      demo: { enabled: true, page_dir: path.join(ROOT, "demo/page"), ticket_key_id: "demo" },
    },
    { env: { TIDEGATE_DEMO_TICKET_SECRET: SECRET } },
  );
  await node.push("ticket-auth", wasm("ticket-auth"), "authentication@app", { secrets: [{ id: "demo", secret: SECRET }] });
  await node.push("word-filter", wasm("word-filter"), "filtering@namespace:chat", FILTER);
  await node.push("direct-router", wasm("direct-router"), "routing@namespace:chat");
  return node;
}

/** As in demo/plugins.toml. */
const FILTER = { fields: ["text"], words: ["bilge", "scallywag"], stamp: true, identity: { mode: "refuse" } };

/** The same plugin as another artifact: a custom section changes the digest, not the code. */
async function variant(name, dir) {
  const bytes = await readFile(wasm(name));
  const label = Buffer.from("note");
  const body = Buffer.concat([Buffer.from([label.length]), label, randomBytes(8)]);
  const file = path.join(dir, `${name}-2.wasm`);
  await writeFile(file, Buffer.concat([bytes, Buffer.from([0, body.length]), body]));
  return file;
}

describe("the demonstration page", () => {
  let node;
  let browser;
  let ada;
  let bob;
  const problems = [];

  async function window(name, role = "member", options = {}) {
    const context = await browser.newContext({ viewport: { width: 1180, height: 760 }, ...options });
    const tab = await context.newPage();
    tab.on("pageerror", (error) => problems.push(`${name}: ${error.message}`));
    tab.on("console", (entry) => entry.type() === "error" && problems.push(`${name}: ${entry.text()}`));
    tab.on("request", (request) => {
      if (new URL(request.url()).host !== node.client) problems.push(`${name} asked ${request.url()}`);
    });
    await tab.goto(`http://${node.client}/`);
    await tab.fill("#name", name);
    await tab.check(`input[value=${role}]`, { force: true });
    await tab.click("#join button[type=submit]");
    await connected(tab);
    return tab;
  }

  const connected = (tab) => tab.waitForSelector('#state[data-state="connected"]');
  const reads = (tab, text) => tab.waitForSelector(`#messages .body:text-is(${JSON.stringify(text)})`);

  async function say(tab, text, type = "broadcast", to) {
    await tab.check(`input[value=${type}]`, { force: true });
    if (to) await tab.fill("#to", to);
    await tab.fill("#text", text);
    await tab.press("#text", "Enter");
  }

  async function shot(tab, name) {
    if (SHOTS) await tab.screenshot({ path: path.join(SHOTS, `${name}.png`) });
  }

  before(async () => {
    [browser, node] = await Promise.all([launch(), demo()]);
    [ada, bob] = await Promise.all([window("Ada", "operator"), window("Bob", "member", { colorScheme: "dark" })]);
  });

  after(async () => {
    await browser?.close();
    await node?.stop();
  });

  it("two windows chat, and each message names the plugin version that judged it", async () => {
    await say(ada, "hello from Ada");
    await Promise.all([reads(ada, "hello from Ada"), reads(bob, "hello from Ada")]);
    await say(bob, "hello from Bob");
    await Promise.all([reads(ada, "hello from Bob"), reads(bob, "hello from Bob")]);
    assert.match(await bob.textContent("#messages .message:first-of-type .judge, #messages .judge"), /^word-filter@1/);
  });

  it("what somebody writes is shown as text, never as markup", async () => {
    await say(bob, "<img src=x onerror=alert(1)><b>bold</b>");
    await reads(ada, "<img src=x onerror=alert(1)><b>bold</b>");
    assert.equal(await ada.locator("#messages img, #messages b").count(), 0);
  });

  it("an e-mail address is masked, and the writer sees that it was changed", async () => {
    await say(bob, "write to bob@example.org please");
    await bob.waitForSelector("#messages .tag.changed");
    const text = await bob.locator("#messages .message.own .body").last().textContent();
    assert.ok(!text.includes("bob@example.org"), text);
    assert.match(await bob.textContent("#decisions .changed"), /word-filter@1/);
  });

  it("a card number is refused, with plugin, version, reason and code", async () => {
    await say(bob, "pay with 4111 1111 1111 1111");
    const text = await (await bob.waitForSelector("#decisions .refused")).textContent();
    assert.match(text, /word-filter@1/);
    assert.match(text, /\(451\)/);
    assert.equal(await ada.locator('#messages .body:has-text("4111")').count(), 0);
  });

  it("a reloaded window shows the history and goes on", async () => {
    await ada.reload();
    await connected(ada);
    await Promise.all([reads(ada, "hello from Ada"), reads(ada, "hello from Bob")]);
    await say(bob, "still there?");
    await reads(ada, "still there?");
  });

  it("a private message reaches its user and nobody else", async () => {
    const eve = await window("Eve");
    await say(ada, "only for you", "private", "Bob");
    await bob.waitForSelector('#messages .message.private .body:text-is("only for you")');
    // It comes back to its sender once, as hers.
    await ada.waitForSelector('#messages .message.own.private:has-text("private to Bob") .body:text-is("only for you")');
    // What comes later in the channel proves that the private one did not come before it.
    await say(ada, "for everybody");
    await reads(eve, "for everybody");
    assert.equal(await eve.locator('#messages .body:text-is("only for you")').count(), 0);
    await reads(ada, "for everybody");
    assert.equal(await ada.locator('#messages .body:text-is("only for you")').count(), 1);
    await eve.context().close();
  });

  it("a system message of a member is refused, and the page shows who refused it and why", async () => {
    await say(bob, "the server restarts now", "system");
    const refusal = await bob.waitForSelector('#decisions .refused:has-text("direct-router@1")');
    const text = await refusal.textContent();
    assert.match(text, /operator/i);
    await say(ada, "maintenance at noon", "system");
    await bob.waitForSelector('#messages .system:has-text("maintenance at noon")');
    await shot(bob, "room-dark");
    await shot(ada, "room-light");
  });

  it("a changed plugin takes over while both sockets stay open", async () => {
    const clients = await Promise.all([ada, bob].map((tab) => tab.getAttribute("#fact-client", "title")));
    await node.push("word-filter", await variant("word-filter", node.scratch));
    await say(bob, "judged by the new one");
    await reads(ada, "judged by the new one");
    const judges = await ada.locator("#messages .judge").last().textContent();
    assert.match(judges, /word-filter@2/);
    await bob.waitForSelector("#messages .notice.version");
    assert.deepEqual(await Promise.all([ada, bob].map((tab) => tab.getAttribute("#fact-client", "title"))), clients);
    assert.equal(await bob.textContent("#fact-reconnects"), "0");
  });

  it("a forged ticket leads back to the door with the reason", async () => {
    const context = await browser.newContext();
    const tab = await context.newPage();
    await tab.route("**/demo/ticket", (route) => route.fulfill({ json: { ticket: "forged.ticket", user: "Mallory" } }));
    await tab.goto(`http://${node.client}/`);
    await tab.fill("#name", "Mallory");
    await tab.click("#join button[type=submit]");
    await tab.waitForSelector("#join-problem:not([hidden])");
    assert.match(await tab.textContent("#join-problem"), /ticket-auth@1/);
    await shot(tab, "door");
    await context.close();
  });

  for (const width of [320, 375]) {
    it(`it fits a phone of ${width} pixels`, async () => {
      const phone = await window("Telephone", "operator", { viewport: { width, height: 740 } });
      const overflow = await phone.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(overflow <= 0, `the page is ${overflow} px wider than the screen`);
      const bar = await phone.locator(".bar > *:visible").evaluateAll((parts) => parts.map((part) => part.getBoundingClientRect()).map(({ left, right }) => [left, right]));
      assert.ok(bar.every(([left, right]) => left >= 0 && right <= width), `the bar is cut: ${JSON.stringify(bar)}`);
      await shot(phone, `phone-${width}`);
      await phone.context().close();
    });
  }

  it("a session that the server ends for good says what to do", async () => {
    const gone = await window("Gone");
    await node.cli("publish", "chat:lobby", '{"type":"broadcast","text":"before","from":"test"}');
    await reads(gone, "before");
    await node.api("disconnect", { user: "Gone", disconnect: { code: 3503, reason: "force disconnect" } });
    await gone.waitForSelector('#messages .refused:has-text("Leave and join again")');
    assert.ok(await gone.isDisabled("#text"));
    await gone.click("#leave");
    await gone.waitForSelector("#join-view:not([hidden])");
    await gone.context().close();
  });

  it("nothing was loaded from elsewhere and the console stayed quiet", () => {
    assert.deepEqual(problems, []);
  });
});
