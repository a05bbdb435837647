/**
 * The claims of a JWT. Nothing here is verified: only the server can do that.
 */

/**
 * @param {string} token
 * @returns {Record<string, any> | null}  Null: not a JWT.
 */
export function claimsOf(token) {
  try {
    const [, payload] = /** @type {string[]} */ (/^[\w-]+\.([\w-]+)\.[\w-]+$/.exec(token));
    const bytes = Uint8Array.from(atob(payload.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return null;
  }
}

/** `exp`, in s since the epoch; 0: none. @param {string} token */
export function expiryOf(token) {
  return Number(claimsOf(token)?.exp) || 0;
}

/** The lifetime from `iat`, or from now, to `exp`, in s; NaN: unknown. @param {string} token */
export function lifeOf(token) {
  const { exp, iat = Date.now() / 1000 } = claimsOf(token) ?? {};
  return typeof exp === "number" && typeof iat === "number" ? exp - iat : NaN;
}

/** Who the token is for and what it lets them see: tokens with an equal view get the same stream. @param {string} token */
export function viewOf(token) {
  const { iss = null, sub = null, topics = null } = claimsOf(token) ?? {};
  return JSON.stringify([iss, sub, Array.isArray(topics) ? [...topics].sort() : topics]);
}
