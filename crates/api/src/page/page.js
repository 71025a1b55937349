// Status every five seconds, findings by asking the server, which is told to ask by the event stream, or by the clock where no stream is free.
// Everything from outside goes in as text, never as markup. Nothing is called good before the server has said so.
"use strict";

const PAGE_ROWS = 100;
// Answers that may be short, one after the other, until there are rows to show.
const MAX_ANSWERS = 20;
const STATUS_EVERY_MS = 5000;
const STREAM_AGAIN_MS = 60000;
const GATHER_MS = 400;

const by = (id) => document.getElementById(id);
const rows = by("rows");

function say(id, text) {
  by(id).textContent = text ?? "–";
}

function pill(state, text) {
  const shown = by("live");
  if (shown.textContent !== text) shown.textContent = text;
  shown.className = "pill " + state;
}

function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function clock(text) {
  return text.slice(0, 10) + " " + text.slice(11, 19) + " UTC";
}

function time(text) {
  const made = element("time", text.slice(0, 10) + " " + text.slice(11, 23));
  made.dateTime = text;
  made.title = text;
  return made;
}

function link(href, text, label) {
  const made = element("a", text);
  made.href = href;
  made.setAttribute("aria-label", label);
  return made;
}

function lasted(since) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(since)) / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

async function ask(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(address + " " + answer.status);
  return answer.json();
}

// ---- Status: about the network, not about this page's own connection.

let lastAnswer = null;
let isDeaf = true;

function alarm(title, since, advice) {
  by("alarm").hidden = !title;
  if (!title) return;
  if (by("alarm_title").textContent !== title) say("alarm_title", title);
  say("alarm_since", since);
  const text = advice.join("\n");
  if (by("alarm_advice").dataset.text === text) return;
  by("alarm_advice").dataset.text = text;
  by("alarm_advice").replaceChildren(...advice.map((one) => element("li", one)));
}

function health(now) {
  const { listening, context_loaded, last_message, since, advice } = now.readiness;
  say("last_message", last_message && last_message.slice(11, 19));
  isDeaf = !listening;
  document.body.classList.toggle("deaf", isDeaf);
  if (now.ready) {
    pill("good", "receiving the network");
    alarm("");
    return;
  }
  const begun = since ? `${listening ? "Since" : last_message ? "None since" : "None since the start,"} ${clock(since)}: for ${lasted(since)}. ` : "";
  if (!listening) {
    pill("bad", "deaf");
    alarm("No vote or block comes from the network", begun + "Whatever happens now is not seen.", advice);
  } else {
    pill("bad", "not ready");
    alarm(context_loaded ? "The vote index is not open" : "Registry and committees are not loaded", begun, advice);
  }
}

async function status() {
  let now;
  try {
    now = await ask("v1/status");
  } catch (error) {
    document.body.classList.add("unknown");
    pill("bad", "no answer");
    const since = lastAnswer ? `Last answer: ${clock(lastAnswer.toISOString())}. What stands below is of then.` : "It has not answered yet, so nothing is known.";
    alarm("slashwatch does not answer", since, ["Look whether the process runs, and whether this address is still its own."]);
    throw error;
  }
  lastAnswer = new Date();
  document.body.classList.remove("unknown");
  say("network", now.network);
  say("version", "slashwatch " + now.version);
  say("clock_slot", grouped(now.clock_slot));
  say("head_slot", grouped(now.head.slot));
  say("finalized", now.finalized && grouped(now.finalized.epoch));
  say("peers", grouped(now.peers));
  say("validators", grouped(now.validators));
  say("count", grouped(now.findings));
  say("pending", grouped(now.deliveries.pending));
  say("node", { connected: "connected", away: "away", not_configured: "none" }[now.node.state]);
  health(now);
  told();
  // What the red box says already is not said twice.
  const notices = now.notices.filter((notice) => !isDeaf || !notice.startsWith("no vote or block has come since"));
  if (now.node.state === "away") notices.unshift("The beacon node is away; going on with what is known. " + now.node.reason);
  for (const gap of now.gaps.slice().reverse()) notices.push(`Not fully watched: slots ${gap.from_slot} to ${gap.to_slot}. ${gap.reason}`);
  const list = by("notices");
  const text = notices.join("\n");
  if (list.dataset.text !== text) {
    list.dataset.text = text;
    list.replaceChildren(...notices.map((notice) => element("li", notice)));
  }
  return now;
}

// ---- Findings: the server filters and orders them; what is here is its answer.

const FILTERS = { kind: "kind", severity: "severity", label: "label", validator: "validator" };
// Rows by finding, the newest first; a new filter begins a new list.
let list = { filter: "", shown: new Map(), next: null, known: false };

function filter() {
  const parts = Object.entries(FILTERS).map(([id, name]) => [name, by(id).value.trim()]);
  return parts.filter(([, value]) => value).map(([name, value]) => `&${name}=${encodeURIComponent(value)}`).join("");
}

function row(finding, isNew) {
  const made = element("tr", undefined, isNew ? "new" : "");
  const cell = (...content) => {
    const cell = element("td");
    cell.append(...content);
    made.append(cell);
  };
  cell(time(finding.second_seen ?? finding.first_seen));
  cell(link("v1/findings/" + finding.id, finding.kind, `${finding.kind}, the finding`));
  cell(element("span", finding.severity, finding.severity));
  cell(grouped(finding.slot));
  const labels = finding.validator ? finding.validator.labels : [];
  cell(finding.validator ? finding.validator.index + (labels.length ? ` (${labels.join(", ")})` : "") : "–");
  cell(finding.sources.join(", "));
  cell(finding.included ? `included in ${finding.included.slot}` : (finding.punishable ?? "–").replaceAll("_", " "));
  if (finding.evidence) {
    const at = "v1/evidence/";
    cell(link(at + finding.evidence.json, "JSON", "proof as JSON"), " ", link(at + finding.evidence.ssz, "SSZ", "proof as SSZ"));
  } else {
    cell("–");
  }
  return made;
}

// An answer may be short and still have more behind it.
async function rowsBehind(cursor, wanted) {
  let found = [];
  for (let n = 0; n < MAX_ANSWERS && found.length < PAGE_ROWS; n++) {
    const page = await ask(`v1/findings?order=desc&limit=${PAGE_ROWS}${wanted}${cursor ? "&cursor=" + cursor : ""}`);
    found = found.concat(page.findings);
    cursor = page.next;
    if (cursor === null) break;
  }
  return { found, next: cursor };
}

function told() {
  const n = list.shown.size;
  by("older").hidden = !list.next;
  if (!list.known) say("none", "Asking for findings.");
  else if (n) say("none", list.next ? `The newest ${grouped(n)} that match; there are older ones.` : `All ${grouped(n)} that match.`);
  else if (list.next) say("none", "Nothing among the newest matches; older ones can be looked through.");
  else if (list.filter) say("none", "Nothing that was found matches.");
  else if (isDeaf) say("none", "Nothing found so far, and nothing is received now: that says nothing about the network.");
  else say("none", "Nothing found so far. That is the good case while the network is received: some 500 validators of a million were ever slashed.");
}

function failed(error) {
  say("none", /403/.test(error.message) ? "This label is not shown to everybody." : /400/.test(error.message)
    ? "The filter is not understood: a label is written as key=value, a validator as its index." : "The findings could not be asked for; trying again.");
}

// The list from its beginning: at the start, and with another filter.
async function load() {
  const wanted = filter();
  const mine = (list = { filter: wanted, shown: new Map(), next: null, known: false });
  rows.replaceChildren();
  told();
  try {
    const { found, next } = await rowsBehind(null, wanted);
    if (list !== mine) return;
    list.known = true;
    list.next = next;
    for (const finding of found) append(finding);
    told();
  } catch (error) {
    if (list === mine) failed(error);
  }
}

function append(finding) {
  if (list.shown.has(finding.id)) return;
  const made = row(finding, false);
  list.shown.set(finding.id, made);
  rows.append(made);
}

async function older() {
  const mine = list;
  try {
    const { found, next } = await rowsBehind(mine.next, mine.filter);
    if (list !== mine) return;
    list.next = next;
    for (const finding of found) append(finding);
    told();
  } catch (error) {
    failed(error);
  }
}

// What is new at the top, and what is known of the rows there now.
async function refresh() {
  const mine = list;
  if (!mine.known) return load();
  const { found } = await rowsBehind(null, mine.filter);
  if (list !== mine) return;
  const isNew = (finding) => !list.shown.has(finding.id);
  // More came than an answer holds: what lies between it and the list is not known.
  if (list.shown.size && found.length && found.every(isNew)) return load();
  for (const finding of found.slice().reverse()) {
    const made = row(finding, isNew(finding));
    const old = list.shown.get(finding.id);
    if (old) old.replaceWith(made);
    else rows.prepend(made);
    list.shown.set(finding.id, made);
  }
  told();
}

// ---- Incidents

const MAX_CARDS = 24;
const cards = new Map();

// One card for each incident, the latest change first; closed ones go last.
function showIncident(incident) {
  const card = element("article", undefined, `card ${incident.severity} ${incident.state}`);
  const title = element("h3");
  title.append(link("v1/incidents/" + incident.id, incident.kind.replaceAll("_", " "), `${incident.kind}, the incident`));
  title.append(` \u00b7 ${incident.state}`);
  card.append(title);
  const line = (text) => card.append(element("p", text));
  const who = incident.validators ? `, ${grouped(incident.validators)} validators` : "";
  line(`slots ${grouped(incident.first_slot)} to ${grouped(incident.last_slot)}${who}`);
  const details = incident.details;
  if (details.subnets === "all") line("nothing came from the network at all");
  if (details.suspected_cause) line(`suspected: ${details.suspected_cause.replaceAll("_", " ")}`);
  for (const text of details.because ?? []) line(text);
  for (const one of (incident.shared ?? []).slice(0, 3)) line(`${one.members} share ${one.what.replaceAll("_", " ")} ${one.value}`);
  if (incident.penalty) {
    const eth = (gwei) => (Number(gwei) / 1e9).toFixed(3) + " ETH";
    const p = incident.penalty;
    line(`cost: ${eth(p.initial_gwei)} at once, ${eth(p.correlation_gwei_now)} more later, ${eth(p.correlation_gwei_if_doubled)} if it doubles`);
  }
  const text = JSON.stringify(incident);
  if (cards.get(incident.id)?.text === text) return;
  cards.get(incident.id)?.card.remove();
  cards.delete(incident.id);
  cards.set(incident.id, { card, text, closed: incident.state === "closed" });
  const order = [...cards.values()].reverse();
  by("cards").replaceChildren(...[...order.filter((c) => !c.closed), ...order.filter((c) => c.closed)].slice(0, MAX_CARDS).map((c) => c.card));
  by("incidents").hidden = false;
}

async function incidents() {
  let cursor = "";
  for (let n = 0; n < MAX_ANSWERS; n++) {
    const page = await ask("v1/incidents?limit=1000" + cursor);
    page.incidents.forEach(showIncident);
    if (page.next === null) return;
    cursor = "&cursor=" + page.next;
  }
}

// ---- When to ask: at once when the stream says that there is something, else every few seconds.

let isStreaming = false;
let gathering = null;

function soon() {
  gathering ??= setTimeout(() => {
    gathering = null;
    Promise.all([refresh(), watched()]).catch(() => {});
  }, GATHER_MS);
}

function listen(after) {
  // The browser comes back by itself and says the last id it saw, so nothing is missed in between.
  const events = new EventSource("v1/events?after=" + after);
  events.onopen = () => {
    isStreaming = true;
    say("feed", "new findings come at once");
  };
  events.onerror = () => {
    isStreaming = false;
    if (events.readyState !== EventSource.CLOSED) {
      say("feed", "the stream is interrupted: asking every 5 s");
      return;
    }
    say("feed", "no event stream is free: asking every 5 s");
    setTimeout(() => listen(after), STREAM_AGAIN_MS);
  };
  events.addEventListener("incident", (event) => {
    showIncident(JSON.parse(event.data));
    soon();
  });
  events.addEventListener("finding", (event) => {
    after = event.lastEventId;
    soon();
  });
}

async function look() {
  try {
    await status();
    const work = [watched()];
    if (!isStreaming || !list.known) work.push(refresh());
    if (!isStreaming) work.push(incidents());
    await Promise.all(work);
  } catch {
    // What does not answer is told by status(); the next look is soon.
  }
}

async function begin() {
  let now;
  try {
    now = await status();
  } catch {
    setTimeout(begin, STATUS_EVERY_MS);
    return;
  }
  setInterval(look, STATUS_EVERY_MS);
  listen(now.findings);
  await Promise.all([load(), incidents(), watched()]).catch(() => {});
}

for (const id of ["kind", "severity"]) by(id).addEventListener("change", load);
let typing = null;
for (const id of ["label", "validator"]) {
  by(id).addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(load, GATHER_MS);
  });
}
by("older").addEventListener("click", older);
begin();
