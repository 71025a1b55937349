// Asks for a token, says what is wrong with a refused one, and lets the reader forget the one that
// is held.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { getJson } from "./data.js";
import { Page } from "./parts.js";
import { cleaned, forgetToken, heldToken, useToken } from "./token.js";

const SCOPES = { read: "what everybody may see", watch: "watched keys too", admin: "watched keys and addresses too" };

function Form({ reason, id }) {
  const [text, setText] = useState("");
  const [refused, setRefused] = useState(reason);
  const [isAsking, setIsAsking] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const token = cleaned(text);
    if (!token) return setRefused(text.trim() ? "this is no token: a token has letters, digits and signs only, on one line" : "the field is empty; paste a token");
    setIsAsking(true);
    try {
      await getJson("/v1/token", undefined, token);
      useToken(token);
    } catch (error) {
      setRefused(error.message);
      setIsAsking(false);
    }
  };
  return html`<form class="token" onSubmit=${submit}>
    <label for=${id}>Token</label>
    <input id=${id} type="password" autocomplete="off" spellcheck="false" value=${text} onInput=${(event) => setText(event.target.value)}
      aria-invalid=${refused ? "true" : null} aria-describedby=${id + "-refused"} />
    <button type="submit" disabled=${isAsking}>Use this token</button>
    <p id=${id + "-refused"} class="stale" role="alert">${refused && `Not accepted: ${refused}.`}</p>
  </form>`;
}

// Stands for every view while the server answers nothing without a token, or refuses the one that
// was held.
export function TokenNeeded({ reason }) {
  return html`<${Page} title=${reason ? "The token is not accepted" : "A token is needed"}>
    <p>This watcher may show what it knows to holders of a token only. Whoever operates it makes one with <code>slashwatch token new --scope read</code>.</p>
    <${Form} reason=${reason} id="token-needed" />
    ${reason && html`<p><button type="button" onClick=${() => location.reload()}>Go on without a token</button></p>`}
    <p class="note">The token stays in this tab and is forgotten when the tab is closed.</p>
  <//>`;
}

// In the footer: whose token is held, or a field for one, for who may see more than everybody.
export function TokenLine() {
  const isHeld = heldToken() !== null;
  const [token, setToken] = useState(null);
  useEffect(() => {
    if (isHeld) getJson("/v1/token").then(setToken, () => {});
  }, []);
  if (!isHeld) return html`<details><summary>See more with a token</summary><${Form} reason=${null} id="token-more" /></details>`;
  const shows = token && (SCOPES[token.scope] ?? token.scope);
  return html`<p>${token ? `Token ${token.name} shows ${shows}${token.expires_at ? `, until ${token.expires_at.slice(0, 16).replace("T", " ")} UTC` : ""}.` : "A token is in use."}
    <button type="button" onClick=${forgetToken}>Forget it</button></p>`;
}
