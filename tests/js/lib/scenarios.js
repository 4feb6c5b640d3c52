// What a client of the official SDK must see, written so that Node and a browser run the same lines.
//
// A scenario gets `t`:
//   t.client(options)      a new client of the codec under test, not connected
//   t.url, t.cutUrl        the server, and the same through a proxy that can be cut
//   t.encode / t.decode    between objects and the codec's data
//   t.host(name, ...args)  asks the test's own process: "token", "api", "cut", "mend"
// and throws when something is not as it should be. Nothing here imports anything.

const LIMIT = 15_000;

/** Resolves with the first matching event of a client or subscription. */
export function event(source, name, matches = () => true) {
  return within(
    `event ${name}`,
    new Promise((resolve) => {
      const listen = (context) => {
        if (!matches(context)) return;
        source.removeListener(name, listen);
        resolve(context);
      };
      source.on(name, listen);
    }),
  );
}

/** Collects events until there are `count` of them. */
function collect(source, name, count) {
  const seen = [];
  return within(
    `${count} events ${name}`,
    new Promise((resolve) => {
      source.on(name, (context) => {
        seen.push(context);
        if (seen.length === count) resolve(seen);
      });
    }),
  );
}

/** The error of a promise that must fail. */
async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it was expected to fail");
}

function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing for ${LIMIT / 1000} s`)), LIMIT);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function equal(actual, expected, what) {
  const [left, right] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (left !== right) throw new Error(`${what}: ${left} instead of ${right}`);
}

function ok(condition, what) {
  if (!condition) throw new Error(what);
}

async function connected(t, user, options = {}) {
  const client = t.client({ token: await t.host("token", user), ...options });
  const done = event(client, "connected");
  client.connect();
  return { client, context: await done };
}

async function subscribed(client, channel, options = {}) {
  const subscription = client.newSubscription(channel, options);
  const done = event(subscription, "subscribed");
  subscription.subscribe();
  return { subscription, context: await done };
}

let counter = 0;
/** A channel nobody else uses. */
const fresh = (namespace) => `${namespace}:${Date.now().toString(36)}-${(counter += 1)}`;

export const scenarios = {
  async "a client with a good token is connected and told its id"(t) {
    const { client, context } = await connected(t, "ada");
    ok(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(context.client), `client id ${context.client}`);
    equal(client.state, "connected", "state");
    client.disconnect();
  },

  async "a client without a token is refused with 3501"(t) {
    const client = t.client({});
    const done = event(client, "disconnected");
    client.connect();
    const { code, reason } = await done;
    equal([code, reason], [3501, "bad request"], "disconnect");
  },

  async "a token of somebody else's key is refused with 3500"(t) {
    const client = t.client({ token: await t.host("forgedToken", "ada") });
    const done = event(client, "disconnected");
    client.connect();
    const { code, reason } = await done;
    equal([code, reason], [3500, "invalid token"], "disconnect");
  },

  async "an expired token is answered with 109 and the SDK fetches a new one"(t) {
    let asked = 0;
    const client = t.client({
      // Further back than the leeway for clocks that differ.
      token: await t.host("token", "ada", -60),
      getToken: async () => {
        asked += 1;
        return t.host("token", "ada", 60);
      },
    });
    const errors = [];
    client.on("error", (context) => errors.push(context.error.code));
    const done = event(client, "connected");
    client.connect();
    await done;
    equal(errors, [109], "errors");
    equal(asked, 1, "token requests");
    client.disconnect();
  },

  async "a publication reaches every subscriber with its publisher's identity"(t) {
    const channel = fresh("open");
    const [ada, bob] = await Promise.all([connected(t, "ada"), connected(t, "bob")]);
    const there = await subscribed(bob.client, channel);
    const here = await subscribed(ada.client, channel);
    const both = Promise.all([event(there.subscription, "publication"), event(here.subscription, "publication")]);
    await here.subscription.publish(t.encode({ text: "tide \u2028 <&> \u{1f30a}" }));
    for (const publication of await both) {
      equal(t.decode(publication.data), { text: "tide \u2028 <&> \u{1f30a}" }, "data");
      equal(publication.info.user, "ada", "user");
      equal(publication.info.client, ada.context.client, "client");
    }
    ada.client.disconnect();
    bob.client.disconnect();
  },

  async "a publication of the server API has no publisher"(t) {
    const channel = fresh("open");
    const { client } = await connected(t, "ada");
    const { subscription } = await subscribed(client, channel);
    const arrived = event(subscription, "publication");
    await t.host("api", "publish", { channel, data: { from: "back end" } });
    const publication = await arrived;
    equal(t.decode(publication.data), { from: "back end" }, "data");
    ok(!publication.info, "no info");
    client.disconnect();
  },

  async "a hundred publications in a row arrive in order, each once"(t) {
    const channel = fresh("open");
    const { client } = await connected(t, "ada");
    const { subscription } = await subscribed(client, channel);
    const arrived = collect(subscription, "publication", 100);
    await Promise.all(Array.from({ length: 100 }, (_, n) => subscription.publish(t.encode({ n }))));
    equal((await arrived).map((publication) => t.decode(publication.data).n), Array.from({ length: 100 }, (_, n) => n), "order");
    client.disconnect();
  },

  async "after unsubscribing nothing arrives and the channel can be joined again"(t) {
    const channel = fresh("open");
    const { client } = await connected(t, "ada");
    const { subscription } = await subscribed(client, channel);
    let seen = 0;
    subscription.on("publication", () => (seen += 1));
    subscription.unsubscribe();
    await t.host("api", "publish", { channel, data: {} });
    const again = event(subscription, "subscribed");
    subscription.subscribe();
    await again;
    const arrived = event(subscription, "publication");
    await t.host("api", "publish", { channel, data: {} });
    await arrived;
    equal(seen, 1, "publications seen");
    client.disconnect();
  },

  async "an unknown namespace is error 102 and a closed one 103"(t) {
    const { client } = await connected(t, "ada");
    for (const [channel, code, reason] of [["nowhere:x", 102, "unknown channel"], ["closed:x", 103, "permission denied"]]) {
      const subscription = client.newSubscription(channel);
      const done = event(subscription, "unsubscribed");
      subscription.subscribe();
      const context = await done;
      equal(context.code, code, channel);
      // The server may say more than the reference does, behind it.
      ok(context.reason.startsWith(reason), `${channel}: ${context.reason}`);
    }
    client.disconnect();
  },

  async "publishing where it is not allowed is error 103"(t) {
    const { client } = await connected(t, "ada");
    const { subscription } = await subscribed(client, fresh("quiet"));
    const error = await failure(subscription.publish(t.encode({})));
    equal([error.code, error.message], [103, "permission denied"], "error");
    client.disconnect();
  },

  async "an rpc nobody answers is error 104"(t) {
    const { client } = await connected(t, "ada");
    const error = await failure(client.rpc("nobody", t.encode({})));
    equal([error.code, error.message], [104, "method not found"], "error");
    client.disconnect();
  },

  async "an rpc is answered by the plugin bound to its prefix"(t) {
    const { client } = await connected(t, "ada");
    const answer = await client.rpc("echo", t.encode({ n: 7 }));
    equal(t.decode(answer.data), { n: 7 }, "the echo");
    client.disconnect();
  },

  async "history gives the newest or the oldest, with offsets and the epoch"(t) {
    const channel = fresh("kept");
    const { client } = await connected(t, "ada");
    const { subscription } = await subscribed(client, channel);
    for (let n = 1; n <= 5; n += 1) await subscription.publish(t.encode({ n }));
    const oldest = await subscription.history({ limit: 2 });
    equal(oldest.publications.map((publication) => [publication.offset, t.decode(publication.data).n]), [[1, 1], [2, 2]], "oldest");
    const newest = await subscription.history({ limit: 2, reverse: true });
    equal(newest.publications.map((publication) => publication.offset), [5, 4], "newest");
    const after = await subscription.history({ limit: 10, since: { offset: 3, epoch: oldest.epoch } });
    equal(after.publications.map((publication) => publication.offset), [4, 5], "after the third");
    equal((await subscription.history({ limit: 0 })).offset, 5, "position");
    client.disconnect();
  },

  async "history of another epoch is error 112 and history where it is off is 108"(t) {
    const { client } = await connected(t, "ada");
    const kept = await subscribed(client, fresh("kept"));
    await kept.subscription.publish(t.encode({}));
    const stale = await failure(kept.subscription.history({ limit: 1, since: { offset: 1, epoch: "elsewhere" } }));
    equal([stale.code, stale.message], [112, "unrecoverable position"], "other epoch");
    const open = await subscribed(client, fresh("open"));
    equal((await failure(open.subscription.history({ limit: 1 }))).code, 108, "no history");
    client.disconnect();
  },

  async "presence names everybody once and its numbers count users"(t) {
    const channel = fresh("seen");
    const [ada, bob] = await Promise.all([connected(t, "ada"), connected(t, "bob")]);
    const again = await connected(t, "bob");
    const here = await subscribed(ada.client, channel);
    await subscribed(bob.client, channel);
    await subscribed(again.client, channel);
    const { clients } = await here.subscription.presence();
    const expected = { [ada.context.client]: "ada", [bob.context.client]: "bob", [again.context.client]: "bob" };
    equal(Object.keys(clients).sort(), Object.keys(expected).sort(), "clients");
    for (const [id, info] of Object.entries(clients)) equal([info.client, info.user], [id, expected[id]], "info");
    const { numClients, numUsers } = await here.subscription.presenceStats();
    equal([numClients, numUsers], [3, 2], "numbers");
    const open = await subscribed(ada.client, fresh("open"));
    equal((await failure(open.subscription.presence())).code, 108, "presence is off");
    equal((await failure(open.subscription.presenceStats())).code, 108, "presence is off");
    [ada, bob, again].forEach(({ client }) => client.disconnect());
  },

  async "joins and leaves reach those who asked for them, the own join included"(t) {
    const channel = fresh("seen");
    const [ada, bob] = await Promise.all([connected(t, "ada"), connected(t, "bob")]);
    const here = ada.client.newSubscription(channel, { joinLeave: true });
    const own = event(here, "join");
    here.subscribe();
    equal((await own).info.client, ada.context.client, "own join");
    const came = event(here, "join");
    const there = await subscribed(bob.client, channel);
    equal((await came).info.client, bob.context.client, "join");
    const went = event(here, "leave");
    there.subscription.unsubscribe();
    equal((await went).info.client, bob.context.client, "leave");
    const back = event(here, "join");
    there.subscription.subscribe();
    await back;
    const gone = event(here, "leave");
    bob.client.disconnect();
    equal((await gone).info.user, "bob", "leave with the connection");
    equal((await here.presenceStats()).numClients, 1, "who is left");
    ada.client.disconnect();
  },

  async "what is missed during a cut is recovered in order, each once"(t) {
    const channel = fresh("kept");
    const { client } = await connected(t, "ada", { url: t.cutUrl });
    const { subscription, context } = await subscribed(client, channel);
    ok(context.recoverable, "recoverable");
    const arrived = collect(subscription, "publication", 30);
    for (let n = 1; n <= 10; n += 1) await t.host("api", "publish", { channel, data: { n } });
    const again = event(subscription, "subscribed");
    await t.host("cut");
    for (let n = 11; n <= 20; n += 1) await t.host("api", "publish", { channel, data: { n } });
    await t.host("mend");
    const recovered = await again;
    equal([recovered.wasRecovering, recovered.recovered], [true, true], "recovery");
    for (let n = 21; n <= 30; n += 1) await t.host("api", "publish", { channel, data: { n } });
    const seen = await arrived;
    equal(seen.map((publication) => t.decode(publication.data).n), Array.from({ length: 30 }, (_, n) => n + 1), "order");
    equal(seen.map((publication) => publication.offset), Array.from({ length: 30 }, (_, n) => n + 1), "offsets");
    client.disconnect();
  },

  async "more missed than is kept is told as not recovered"(t) {
    const channel = fresh("short");
    const { client } = await connected(t, "ada", { url: t.cutUrl });
    const { subscription } = await subscribed(client, channel);
    const first = event(subscription, "publication");
    await t.host("api", "publish", { channel, data: { n: 1 } });
    await first;
    let seen = 0;
    subscription.on("publication", () => (seen += 1));
    const again = event(subscription, "subscribed");
    await t.host("cut");
    for (let n = 2; n <= 12; n += 1) await t.host("api", "publish", { channel, data: { n } });
    await t.host("mend");
    const context = await again;
    equal([context.wasRecovering, context.recovered], [true, false], "recovery");
    equal([context.streamPosition.offset, seen], [12, 0], "position, and nothing partial");
    client.disconnect();
  },

  async "a token is refreshed before it ends and the connection stays"(t) {
    let asked = 0;
    const client = t.client({
      token: await t.host("token", "ada", 2),
      getToken: async () => {
        asked += 1;
        return t.host("token", "ada", asked === 1 ? 2 : 600);
      },
    });
    let connects = 0;
    client.on("connected", () => (connects += 1));
    const refreshed = within(
      "two refreshes",
      new Promise((resolve) => {
        const look = setInterval(() => {
          if (asked >= 2) {
            clearInterval(look);
            resolve();
          }
        }, 50);
      }),
    );
    client.connect();
    await refreshed;
    await subscribed(client, fresh("open"));
    equal(connects, 1, "connects");
    client.disconnect();
  },

  async "a connection whose token is not refreshed ends with 3005 and comes back"(t) {
    let asked = 0;
    const client = t.client({
      token: await t.host("token", "ada", 1),
      getToken: () => {
        asked += 1;
        // The first refresh never answers; after the server gave up, the SDK connects with a new one.
        return asked === 1 ? new Promise(() => {}) : t.host("token", "ada", 600);
      },
    });
    const closed = event(client, "connecting", (context) => context.code !== 0);
    client.connect();
    const { code, reason } = await closed;
    equal([code, reason], [3005, "connection expired"], "close");
    client.disconnect();
  },

  async "a refresh with a forged token ends the connection with 3500"(t) {
    const client = t.client({ token: await t.host("token", "ada", 1), getToken: () => t.host("forgedToken", "ada") });
    const done = event(client, "disconnected");
    client.connect();
    const { code, reason } = await done;
    equal([code, reason], [3500, "invalid token"], "disconnect");
  },

  async "the server API disconnects a user for good with 3503"(t) {
    const { client } = await connected(t, "mallory");
    const done = event(client, "disconnected");
    await t.host("api", "disconnect", { user: "mallory" });
    const { code, reason } = await done;
    equal([code, reason], [3503, "force disconnect"], "disconnect");
  },

  async "a custom disconnect code below 4500 brings the client back"(t) {
    const { client } = await connected(t, "grace");
    const again = event(client, "connecting", (context) => context.code !== 0);
    const back = event(client, "connected");
    await t.host("api", "disconnect", { user: "grace", disconnect: { code: 4001, reason: "moved" } });
    const { code, reason } = await again;
    equal([code, reason], [4001, "moved"], "close");
    await back;
    client.disconnect();
  },

  async "pings keep an idle connection open"(t) {
    const { client } = await connected(t, "ada");
    let dropped = 0;
    client.on("connecting", () => (dropped += 1));
    await new Promise((resolve) => setTimeout(resolve, 2_600));
    equal([client.state, dropped], ["connected", 0], "after several pings");
    client.disconnect();
  },
};
