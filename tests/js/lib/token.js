// Connection tokens, as an application's back end would make them.

import { createHmac } from "node:crypto";

import { TOKEN_SECRET } from "./node.js";

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A token for a user that ends in `seconds` (none: never). */
export function token(user, seconds, claims = {}, secret = TOKEN_SECRET) {
  const payload = { sub: user, ...claims };
  if (seconds !== undefined) payload.exp = Math.floor(Date.now() / 1000) + seconds;
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(payload)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}
