// Status every five seconds, findings as they come. Everything from outside goes in as text, never as markup.
"use strict";

const MAX_ROWS = 500;
const SHOWN_AT_START = 200;
const STATUS_EVERY_MS = 5000;

const by = (id) => document.getElementById(id);
const rows = by("rows");
const kinds = new Set();
let loadedAt = Infinity;

function say(id, text) {
  by(id).textContent = text ?? "–";
}

function live(state, text) {
  const pill = by("live");
  if (pill.textContent !== text) pill.textContent = text;
  pill.className = "pill " + state;
}

function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

async function status() {
  const answer = await fetch("v1/status");
  if (!answer.ok) throw new Error("status " + answer.status);
  const now = await answer.json();
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
  const notices = now.notices.slice();
  if (!now.ready) notices.unshift("Not ready yet: see /readyz.");
  if (now.node.state === "away") notices.unshift("The beacon node is away; going on with what is known. " + now.node.reason);
  for (const gap of now.gaps) notices.push(`Not fully watched: slots ${gap.from_slot} to ${gap.to_slot}. ${gap.reason}`);
  const list = by("notices");
  const text = notices.join("\n");
  if (list.dataset.text !== text) {
    list.dataset.text = text;
    list.replaceChildren(...notices.map((notice) => element("li", notice)));
  }
  return now;
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
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

function show(seq, finding) {
  noteFinding(finding);
  const row = element("tr");
  row.dataset.kind = finding.kind;
  row.dataset.validator = finding.validator ? finding.validator.index : "";
  const cell = (...content) => {
    const made = element("td");
    made.append(...content);
    row.append(made);
  };
  cell(time(finding.second_seen ?? finding.first_seen));
  cell(link("v1/findings/" + finding.id, finding.kind, `${finding.kind}, the finding`));
  cell(element("span", finding.severity, finding.severity));
  cell(grouped(finding.slot));
  const labels = finding.validator ? finding.validator.labels : [];
  row.dataset.labels = "\n" + labels.join("\n") + "\n";
  cell(finding.validator ? finding.validator.index + (labels.length ? ` (${labels.join(", ")})` : "") : "–");
  cell(finding.sources.join(", "));
  cell(finding.included ? `included in ${finding.included.slot}` : (finding.punishable ?? "–").replaceAll("_", " "));
  if (finding.evidence) {
    const at = "v1/evidence/";
    cell(link(at + finding.evidence.json, "JSON", "proof as JSON"), " ", link(at + finding.evidence.ssz, "SSZ", "proof as SSZ"));
  } else {
    cell("–");
  }
  if (seq > loadedAt) row.className = "new";
  row.hidden = !wanted(row);
  rows.prepend(row);
  while (rows.childElementCount > MAX_ROWS) rows.lastElementChild.remove();
  by("none").hidden = true;
  if (!kinds.has(finding.kind)) {
    kinds.add(finding.kind);
    by("kind").append(element("option", finding.kind));
  }
}

const MAX_CARDS = 24;
const cards = new Map();

// One card for each incident, the latest change first; closed ones go last.
function showIncident(incident) {
  noteIncident(incident);
  const card = element("article", undefined, `card ${incident.severity} ${incident.state}`);
  const title = element("h3");
  title.append(link("v1/incidents/" + incident.id, incident.kind.replaceAll("_", " "), `${incident.kind}, the incident`));
  title.append(` \u00b7 ${incident.state}`);
  card.append(title);
  const line = (text) => card.append(element("p", text));
  const who = incident.validators ? `, ${grouped(incident.validators)} validators` : "";
  line(`slots ${grouped(incident.first_slot)} to ${grouped(incident.last_slot)}${who}`);
  const details = incident.details;
  if (details.suspected_cause) line(`suspected: ${details.suspected_cause.replaceAll("_", " ")}`);
  for (const text of details.because ?? []) line(text);
  for (const one of (incident.shared ?? []).slice(0, 3)) line(`${one.members} share ${one.what.replaceAll("_", " ")} ${one.value}`);
  if (incident.penalty) {
    const eth = (gwei) => (Number(gwei) / 1e9).toFixed(3) + " ETH";
    const p = incident.penalty;
    line(`cost: ${eth(p.initial_gwei)} at once, ${eth(p.correlation_gwei_now)} more later, ${eth(p.correlation_gwei_if_doubled)} if it doubles`);
  }
  cards.get(incident.id)?.card.remove();
  cards.delete(incident.id);
  cards.set(incident.id, { card, closed: incident.state === "closed" });
  const order = [...cards.values()].reverse();
  by("cards").replaceChildren(...[...order.filter((c) => !c.closed), ...order.filter((c) => c.closed)].slice(0, MAX_CARDS).map((c) => c.card));
  by("incidents").hidden = false;
}

function wanted(row) {
  const kind = by("kind").value;
  const validator = by("validator").value.trim();
  const label = by("label").value.trim();
  return (!kind || row.dataset.kind === kind)
    && (!validator || row.dataset.validator === validator)
    && (!label || row.dataset.labels.includes("\n" + label + "\n"));
}

function filter() {
  for (const row of rows.children) row.hidden = !wanted(row);
}

function listen(after) {
  // The browser comes back by itself and says the last id it saw, so nothing is missed in between.
  const events = new EventSource("v1/events?after=" + after);
  events.onopen = () => live("good", "live");
  events.onerror = () => {
    const closed = events.readyState === EventSource.CLOSED;
    live(closed ? "bad" : "wait", closed ? "no stream, reload to try again" : "reconnecting");
  };
  events.addEventListener("incident", (event) => showIncident(JSON.parse(event.data)));
  events.addEventListener("finding", (event) => show(Number(event.lastEventId), JSON.parse(event.data)));
}

async function begin() {
  try {
    const now = await status();
    loadedAt = now.findings;
    // Said only of what is known: a reader must not take a list that is still loading for good news.
    by("none").hidden = now.findings > 0;
    listen(Math.max(0, now.findings - SHOWN_AT_START));
    const look = () => Promise.all([status(), watched()]).catch(() => live("wait", "reconnecting"));
    setInterval(look, STATUS_EVERY_MS);
    await watched();
  } catch {
    live("bad", "not reached, trying again");
    setTimeout(begin, STATUS_EVERY_MS);
  }
}

by("kind").addEventListener("change", filter);
by("validator").addEventListener("input", filter);
by("label").addEventListener("input", filter);
begin();
