// The demonstration page: a chat over the official SDK, and what plugins decided about each message.
//
// Everything that came from somebody is put on the page as text, never as markup.

/* global Centrifuge */

const CHANNEL = "chat:lobby";
const HISTORY = 50;
const SESSION = "tidegate-demo-session";
const THEME = "tidegate-demo-theme";
const KEPT_MESSAGES = 300;
const KEPT_DECISIONS = 60;

const $ = (id) => document.getElementById(id);

/** Makes an element with classes and text children. */
function element(tag, classes, ...children) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function clock(when = new Date()) {
  return when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

// ---------------------------------------------------------------- state

let client = null;
let subscription = null;
let me = null; // { name, role, ticket }
let reconnects = -1;
let lastOffset = 0;
const versions = new Map(); // plugin -> version last seen
const people = new Set();
const sent = []; // texts of own messages that did not come back yet
let isOver = false; // the server will not have this session again

// ---------------------------------------------------------------- theme

function applyTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const chosenTheme = () => localStorage.getItem(THEME) ?? (dark.matches ? "dark" : "light");
applyTheme(chosenTheme());
dark.addEventListener("change", () => applyTheme(chosenTheme()));
$("theme").addEventListener("click", () => {
  localStorage.setItem(THEME, document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  applyTheme(chosenTheme());
});

// ---------------------------------------------------------------- joining and leaving

$("join").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  showJoinProblem("");
  try {
    const answer = await fetch("/demo/ticket", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ name: form.get("name"), role: form.get("role") }),
    });
    if (!answer.ok) throw new Error((await answer.text()).trim() || `the server answered ${answer.status}`);
    const { ticket, user } = await answer.json();
    join({ name: user, role: form.get("role"), ticket });
  } catch (error) {
    showJoinProblem(`No ticket: ${error.message}`);
  }
});

$("leave").addEventListener("click", () => {
  sessionStorage.removeItem(SESSION);
  client?.disconnect();
  window.location.reload();
});

function showJoinProblem(text) {
  $("join-problem").textContent = text;
  $("join-problem").hidden = text === "";
}

function join(session) {
  me = session;
  sessionStorage.setItem(SESSION, JSON.stringify(session));
  $("join-view").hidden = true;
  $("room-view").hidden = false;
  $("leave").hidden = false;
  $("who").hidden = false;
  $("who").textContent = session.role === "operator" ? `${session.name} · operator` : session.name;
  $("text").focus();
  connect();
}

// ---------------------------------------------------------------- the connection

function showState(state, text) {
  $("state").dataset.state = state;
  $("state-text").textContent = text;
}

function connect() {
  const scheme = window.location.protocol === "https:" ? "wss" : "ws";
  client = new Centrifuge(`${scheme}://${window.location.host}/connection/websocket`, {
    name: "tidegate-demo",
    data: { ticket: me.ticket },
  });

  client.on("connecting", (context) => showState("connecting", context.code === 0 ? "connecting" : `reconnecting: ${context.reason}`));
  client.on("connected", (context) => {
    reconnects += 1;
    showState("connected", "connected");
    $("fact-client").textContent = context.client.slice(0, 8);
    $("fact-client").title = context.client;
    $("fact-since").textContent = clock();
    $("fact-reconnects").textContent = String(reconnects);
  });
  client.on("disconnected", (context) => {
    showState("refused", "closed");
    if (context.code === 0) return; // We left.
    const { plugin, reason } = cause(context.reason);
    refused("the connection", plugin, reason, context.code);
    if (reconnects >= 0) closeRoom();
    if (reconnects < 0) {
      // The ticket was not accepted: back to the door.
      sessionStorage.removeItem(SESSION);
      $("room-view").hidden = true;
      $("join-view").hidden = false;
      showJoinProblem(`${plugin ?? "The server"} refused you: ${reason} (${context.code})`);
    }
  });
  client.on("error", (context) => {
    // A connect that was refused for now; the SDK tries again by itself.
    if (context.type === "connect") {
      const { plugin, reason } = cause(context.error.message);
      refused("the connection", plugin, reason, context.error.code);
    }
  });
  // Private and system messages that a plugin routed to this user arrive without a channel.
  client.on("message", (context) => showData(context.data, { isDirect: true }));

  subscription = client.newSubscription(CHANNEL, { recoverable: true, positioned: true });
  subscription.on("publication", showPublication);
  subscription.on("subscribed", async (context) => {
    $("summary").textContent = "";
    if (context.wasRecovering && context.recovered) {
      notice("connection was cut; nothing was missed");
      return;
    }
    await showHistory();
  });
  subscription.on("error", (context) => {
    const { plugin, reason } = cause(context.error.message);
    refused(`joining ${CHANNEL}`, plugin, reason, context.error.code);
  });
  subscription.on("unsubscribed", (context) => {
    if (context.code === 0) return;
    const { plugin, reason } = cause(context.reason);
    refused(`joining ${CHANNEL}`, plugin, reason, context.code);
  });

  subscription.subscribe();
  client.connect();
}

/** The SDK does not come back by itself after this: say what the reader can do. */
function closeRoom() {
  isOver = true;
  notice("This session is over. Leave and join again: a new ticket is made for you.", "refused");
  for (const control of $("composer").elements) control.disabled = true;
  $("leave").textContent = "Join again";
  $("leave").classList.add("primary");
}

async function showHistory() {
  try {
    const history = await subscription.history({ limit: HISTORY, reverse: true });
    const shown = history.publications.slice().reverse();
    $("messages").replaceChildren();
    lastOffset = 0;
    if (shown.length > 0) notice(shown.length === 1 ? "1 message from before" : `${shown.length} messages from before; private ones are not kept`);
    shown.forEach((publication) => showPublication(publication, { isPast: true }));
  } catch (error) {
    notice(`no history: ${error.message}`);
  }
}

// ---------------------------------------------------------------- messages

function showPublication(publication, { isPast = false } = {}) {
  // History and live publications may overlap by a few.
  if (publication.offset && publication.offset <= lastOffset) return;
  if (publication.offset) {
    lastOffset = publication.offset;
    $("fact-position").textContent = `#${lastOffset}`;
  }
  showData(publication.data, { from: publication.info?.user, isOwn: publication.info?.client === myClient(), isPast });
}

function myClient() {
  return $("fact-client").title || null;
}

/** One message of the forms that word-filter and direct-router agree on. */
function showData(data, { from, isOwn = false, isPast = false, isDirect = false } = {}) {
  if (data === null || typeof data !== "object") return;
  const judges = judgesOf(data);
  judges.forEach((judge) => sawVersion(judge, isPast));
  const author = from || data.from || "server";
  const text = String(data.text ?? "");
  const type = data.type ?? "broadcast";
  if (author !== "server") addPerson(author);
  if (type === "system") {
    const shown = element("li", "notice system", `${author === "server" ? "" : `${author}: `}${text}`);
    if (judges.length > 0) shown.append(" ", element("span", "tag", judges.join(" · ")));
    append(shown);
    return;
  }
  const wasMine = isOwn && !isPast ? sent.shift() : undefined;
  const isChanged = wasMine !== undefined && wasMine !== text;
  if (isChanged) decided("changed", judges.join(" · ") || null, `changed what you wrote to “${text}”`);
  // A private message names its sender; direct-router writes that, so nobody can forge it.
  const isMe = isOwn || author === me.name;
  const isPrivate = isDirect || type === "private";
  showMessage({ author, text, judges, isMe, isChanged, isPast, isPrivate, to: isPrivate && isMe ? String(data.to ?? "") : null });
}

function showMessage({ author, text, judges, isMe, isChanged, isPrivate, to, isPast = false }) {
  const item = element("li", `message${isMe ? " own" : ""}${isPrivate ? " private" : ""}`);
  const avatar = element("span", `avatar hue-${hue(author)}`, [...author][0]?.toUpperCase() ?? "?");
  avatar.setAttribute("aria-hidden", "true");
  item.append(
    avatar,
    element(
      "div",
      "meta",
      element("strong", "", author),
      isPrivate ? element("span", "tag private", to ? `private to ${to}` : "private") : null,
      judges.length > 0 ? element("span", "tag judge", judges.join(" · ")) : null,
      isChanged ? element("span", "tag changed", "changed") : null,
      // A publication of the history does not say when it was made.
      isPast ? null : element("time", "", clock()),
    ),
    element("div", "body", text),
  );
  append(item);
}

function append(item) {
  const list = $("messages");
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  list.append(item);
  while (list.children.length > KEPT_MESSAGES) list.firstElementChild.remove();
  if (isAtEnd) list.scrollTop = list.scrollHeight;
}

function notice(text, kind = "") {
  append(element("li", `notice ${kind}`.trim(), text));
}

function hue(name) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) % 4096;
  return sum % 8;
}

function addPerson(name) {
  if (people.has(name) || name === me.name) return;
  people.add(name);
  const option = element("option", "");
  option.value = name;
  $("people").append(option);
}

// ---------------------------------------------------------------- what plugins decided

/** `word-filter@3: no links here` → who and why. */
function cause(message) {
  const found = /^([a-z0-9][a-z0-9-]*@\d+): (.*)$/s.exec(message ?? "");
  return found ? { plugin: found[1], reason: found[2] } : { plugin: null, reason: message ?? "" };
}

function judgesOf(data) {
  const by = data.filtered_by;
  if (Array.isArray(by)) return by.map(String);
  return by === undefined || by === null ? [] : [String(by)];
}

/** Notes which version of a plugin answered, and says so when it is another one than before. */
function sawVersion(judge, isPast = false) {
  const at = judge.lastIndexOf("@");
  if (at < 1) return;
  const [plugin, version] = [judge.slice(0, at), judge.slice(at + 1)];
  const before = versions.get(plugin);
  // What judged an old message may be long replaced; it only fills a gap.
  if (before === version || (isPast && before !== undefined)) return;
  versions.set(plugin, version);
  showPlugins();
  if (before !== undefined && !isPast) {
    const text = `${plugin} is now version ${version}; this connection stayed open`;
    notice(text, "version");
    decided("version", judge, `took over from version ${before}`);
  }
}

function showPlugins() {
  const items = [...versions].sort().map(([plugin, version]) => element("li", "", element("span", "", plugin), element("span", "version", `version ${version}`)));
  $("plugins").replaceChildren(...items);
  $("plugins-empty").hidden = items.length > 0;
}

function refused(what, plugin, reason, code) {
  if (plugin) sawVersion(plugin);
  notice(`${plugin ?? "The server"} refused ${what}: ${reason} (${code})`, "refused");
  decided("refused", plugin ?? "server", `refused ${what}: ${reason} (${code})`);
}

function decided(kind, plugin, text) {
  const item = element(
    "li",
    `decision ${kind}`,
    element("div", "head", plugin ? element("strong", "", plugin) : null, element("time", "", clock())),
    element("div", "", text),
  );
  const list = $("decisions");
  list.prepend(item);
  while (list.children.length > KEPT_DECISIONS) list.lastElementChild.remove();
  $("decisions-empty").hidden = true;
}

// ---------------------------------------------------------------- writing

const typeOf = () => new FormData($("composer")).get("type");

$("composer").addEventListener("change", () => {
  $("to-field").hidden = typeOf() !== "private";
  if (typeOf() === "private" && $("to").value === "") $("to").focus();
});

$("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  const type = typeOf();
  const to = $("to").value.trim();
  if (text === "" || subscription === null) return;
  if (type === "private" && to === "") {
    $("to").focus();
    return;
  }
  if (isOver) return;
  const message = { type, text, from: me.name };
  if (type === "private") message.to = to;
  $("text").value = "";
  $("text").focus();
  if (type === "broadcast") sent.push(text);
  try {
    // A private message comes back to its sender like to any other device of theirs, as the plugins left it.
    await subscription.publish(message);
    if (type === "private" && to !== me.name && !people.has(to)) {
      notice(`nobody called ${to} has spoken here yet; if there is nobody, nobody heard it`);
    }
  } catch (error) {
    if (type === "broadcast") sent.splice(sent.indexOf(text), 1);
    const { plugin, reason } = cause(error.message);
    refused(`“${text}”`, plugin, reason, error.code);
    if ($("text").value === "") $("text").value = text;
  }
});

// ---------------------------------------------------------------- a reloaded page goes on where it was

const kept = sessionStorage.getItem(SESSION);
if (kept !== null) {
  try {
    join(JSON.parse(kept));
  } catch {
    sessionStorage.removeItem(SESSION);
  }
}
