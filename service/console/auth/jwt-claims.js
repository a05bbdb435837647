/**
 * What a token says about itself. Nothing here is verified: only the server can tell whether it is true.
 */

/**
 * @param {string} token
 * @returns {Record<string, any> | null}  Null where this is no JWT.
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

/** When it expires, in s since the epoch; 0 where it does not say. @param {string} token */
export function expiryOf(token) {
  return Number(claimsOf(token)?.exp) || 0;
}

/** How long it lives from its issue on, in s; NaN where it does not say. @param {string} token */
export function lifeOf(token) {
  const { exp, iat } = claimsOf(token) ?? {};
  return typeof exp === "number" && typeof iat === "number" ? exp - iat : NaN;
}

/** Whose it is and what it lets them see: tokens for which this is equal bring the same stream. @param {string} token */
export function viewOf(token) {
  const { iss = null, sub = null, topics = null } = claimsOf(token) ?? {};
  return JSON.stringify([iss, sub, Array.isArray(topics) ? [...topics].sort() : topics]);
}
