// The page: its frame, and which view an address shows. Text from the server is inserted as text,
// never as markup. Nothing is shown as good before the server has confirmed it.
import { html, render, useEffect, useErrorBoundary, useState } from "./vendor/preact-htm.js";
import { startData, useFeed, useHealth, useRefusal } from "./lib/data.js";
import { downloadsWithToken } from "./lib/download.js";
import { Page, Pill } from "./lib/parts.js";
import { Search } from "./lib/search.js";
import { ago, clock } from "./lib/text.js";
import { TokenLine, TokenNeeded } from "./lib/token_form.js";
import { Epoch } from "./views/epoch.js";
import { Finding } from "./views/finding.js";
import { Heads } from "./views/heads.js";
import { Incident } from "./views/incident.js";
import { Incidents } from "./views/incidents.js";
import { Network } from "./views/network.js";
import { Now } from "./views/now.js";
import { Slashings } from "./views/slashings.js";
import { Slot } from "./views/slot.js";
import { Validator } from "./views/validator.js";
import { Watch } from "./views/watch.js";

// Each address of the page. The server has the same list (page.rs).
const VIEWS = [
  [/^\/$/, Now, "/"],
  [/^\/findings\/([^/]+)$/, Finding, "/"],
  [/^\/incidents$/, Incidents, "/incidents"],
  [/^\/incidents\/([^/]+)$/, Incident, "/incidents"],
  [/^\/validators\/([^/]+)$/, Validator, ""],
  [/^\/slots\/([^/]+)$/, Slot, ""],
  [/^\/epochs\/([^/]+)$/, Epoch, ""],
  [/^\/heads$/, Heads, "/heads"],
  [/^\/network$/, Network, "/network"],
  [/^\/slashings$/, Slashings, "/slashings"],
  [/^\/watch$/, Watch, "/watch"],
];

const NAVIGATION = [["/", "Now"], ["/incidents", "Incidents"], ["/slashings", "Slashings"], ["/heads", "Heads"], ["/network", "Network"], ["/watch", "Watch"]];

// What is no valid escape stands for itself; no view knows it.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function viewOf(path) {
  for (const [pattern, view, section] of VIEWS) {
    const match = pattern.exec(path);
    if (match) return { view, section, id: match[1] && decoded(match[1]) };
  }
  return null;
}

const here = () => ({ path: location.pathname, query: location.search });

// Links to other views change the address and the view without loading the page again.
function useAddress() {
  const [address, setAddress] = useState(here());
  useEffect(() => {
    const moved = () => {
      document.body.dataset.moved = "yes";
      setAddress(here());
    };
    const go = (href) => {
      history.pushState(null, "", href);
      scrollTo(0, 0);
      moved();
    };
    const click = (event) => {
      const link = event.target.closest?.("a[href]");
      if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
      if (link.origin !== location.origin || link.target || link.hasAttribute("download") || !viewOf(link.pathname)) return;
      if (link.pathname === location.pathname && link.search === location.search) {
        if (!link.hash) event.preventDefault();
        return;
      }
      event.preventDefault();
      go(link.pathname + link.search);
    };
    const asked = ({ detail: { href, isSameView } }) => {
      if (!isSameView) return go(href);
      history.replaceState(null, "", href);
      setAddress(here());
    };
    addEventListener("popstate", moved);
    addEventListener("go", asked);
    document.addEventListener("click", click);
    return () => {
      removeEventListener("popstate", moved);
      removeEventListener("go", asked);
      document.removeEventListener("click", click);
    };
  }, []);
  return address;
}

// The state of the network's reception, not of this page's own connection.
function state({ status, error }) {
  if (error) return ["bad", "no answer"];
  if (!status) return ["none", "loading"];
  if (status.recording) return ["none", "recording"];
  if (status.ready) return ["good", "receiving"];
  return status.readiness.listening ? ["bad", "not ready"] : ["bad", "not receiving"];
}

const FEEDS = {
  connecting: "", starting: "", recording: "nothing new comes", live: "live updates",
  interrupted: "live updates are interrupted; asking every 5 s", "no stream": "no event stream is free; asking every 5 s",
};

function Alarm({ health }) {
  const { status, at, error } = health;
  if (error) {
    const since = at ? `Its last answer was at ${clock(at.toISOString())}. What is shown is from that time.` : "It has not answered since this page was opened.";
    return html`<section class="alarm" role="alert"><h2>slashwatch does not answer</h2><p>${since}</p><ul><li>Check that the process is running and that it listens on this address.</li></ul></section>`;
  }
  if (!status || status.ready || status.recording) return null;
  const { listening, context_loaded: isLoaded, last_message: last, since, advice } = status.readiness;
  const title = !listening ? "No vote or block comes from the network" : isLoaded ? "Nothing can be recorded" : "Registry and committees are not loaded";
  const begun = !since ? "" : listening ? `Since ${clock(since)}, ${ago(since)}.`
    : `${last ? "The last one came at" : "None has come since the start at"} ${clock(since)}, ${ago(since)}. Offences that happen now are not seen.`;
  return html`<section class="alarm" role="alert"><h2>${title}</h2><p>${begun}</p><ul>${advice.map((one) => html`<li key=${one}>${one}</li>`)}</ul></section>`;
}

// What a link names and the server does not give, although a token was sent.
function NotDownloaded() {
  const [failed, setFailed] = useState(null);
  useEffect(() => {
    const tell = ({ detail }) => setFailed(detail);
    addEventListener("not-downloaded", tell);
    return () => removeEventListener("not-downloaded", tell);
  }, []);
  return failed && html`<p class="stale" role="alert">${failed.name} could not be downloaded: ${failed.reason}.</p>`;
}

function NotFound() {
  return html`<${Page} title="No such page"><p>This address shows nothing. <a href="/">What happens now</a></p><//>`;
}

// A view that fails says so, and the others still work.
function Guarded({ children }) {
  const [error] = useErrorBoundary();
  if (!error) return children;
  return html`<${Page} title="This view cannot be shown"><p>${String(error.message)}</p><p><a href="/">What happens now</a></p><//>`;
}

function App() {
  const address = useAddress();
  const health = useHealth();
  const feed = useFeed();
  const refusal = useRefusal();
  const found = viewOf(address.path) ?? { view: NotFound, section: "" };
  const [tone, text] = refusal ? ["none", "token needed"] : state(health);
  useEffect(() => {
    document.body.classList.toggle("unknown", Boolean(health.error));
    document.body.classList.toggle("silent", !health.status?.ready);
  });
  const version = health.status?.version ?? "";
  return html`
    <header class="top">
      <a class="name" href="/">slashwatch <span>${health.status?.network ?? ""}</span></a>
      <nav aria-label="Views">${NAVIGATION.map(([href, name]) => html`<a key=${href} href=${href} aria-current=${found.section === href ? "page" : null}>${name}</a>`)}</nav>
      <${Search} />
      <p class="state"><span class="feed">${health.status?.recording ? FEEDS.recording : FEEDS[feed]}</span> <span role="status"><${Pill} tone=${tone}>${text}<//></span></p>
    </header>
    <main id="main" tabindex="-1">
      ${refusal ? html`<${TokenNeeded} reason=${refusal.reason} />` : html`
      <${Alarm} health=${health} />
      <${NotDownloaded} />
      <${Guarded} key=${address.path}><${found.view} id=${found.id} query=${address.query} /><//>`}
    </main>
    <footer>${!refusal && html`<${TokenLine} />`}<p>slashwatch ${version} · <a href="/v1/status">status</a> · <a href="/metrics">metrics</a> · <a href="/openapi.json">API</a> · <a href="/docs/runbook.md">runbook</a> · <a href="/docs/restart.md">restart</a> · <a href="/v1/findings">findings as JSON</a> · <a href="/page/vendor/LICENSES.txt">licences</a></p></footer>`;
}

document.getElementById("app").replaceChildren();
render(html`<${App} />`, document.getElementById("app"));
downloadsWithToken();
startData();
