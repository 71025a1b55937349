// The token that the reader has given to the page. It is kept in this tab only (sessionStorage), and
// sent in the header Authorization: never as part of an address, which ends up in logs and histories.

const KEY = "slashwatch-token";

export const heldToken = () => sessionStorage.getItem(KEY);

// Headers of every request. The first one has the server leave out the question that would make the
// browser ask for a password by itself: the page asks.
export function requestHeaders(token = heldToken()) {
  const headers = { "x-requested-with": "slashwatch-page" };
  return token ? { ...headers, authorization: "Bearer " + token } : headers;
}

// A token as somebody pastes it: without the spaces and line breaks around it. Null if it cannot be
// one. A header holds nothing but visible ASCII.
export function cleaned(text) {
  const token = text.trim();
  return /^[\x21-\x7e]+$/.test(token) ? token : null;
}

// Everything is asked for anew with the token, or without one.
export function useToken(token) {
  sessionStorage.setItem(KEY, token);
  location.reload();
}

export function forgetToken() {
  sessionStorage.removeItem(KEY);
  location.reload();
}

// A token that the server refuses is not sent again. Returns whether there was one.
export function dropToken() {
  const had = heldToken() !== null;
  sessionStorage.removeItem(KEY);
  return had;
}
