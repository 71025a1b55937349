// Loads the status every five seconds. Loads findings when the event stream announces one, or every
// five seconds if no event stream is free. Text from the server is inserted as text, never as markup.
// Nothing is shown as good before the server has confirmed it.
"use strict";

const PAGE_ROWS = 100;
// A page of the API may be short. Up to this many are loaded until there are rows to show.
const MAX_ANSWERS = 20;
const STATUS_EVERY_MS = 5000;
const STREAM_RETRY_MS = 60000;
const GATHER_MS = 400;

const by = (id) => document.getElementById(id);
const rows = by("rows");

function setText(id, text) {
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

function durationSince(since) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(since)) / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

async function getJson(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(address + " " + answer.status);
  return answer.json();
}

// ---- Status: of the network, not of this page's own connection.

let lastAnswer = null;
let isReceiving = false;
let isRecording = false;

function alarm(title, since, advice) {
  by("alarm").hidden = !title;
  if (!title) return;
  if (by("alarm_title").textContent !== title) setText("alarm_title", title);
  setText("alarm_since", since);
  const text = advice.join("\n");
  if (by("alarm_advice").dataset.text === text) return;
  by("alarm_advice").dataset.text = text;
  by("alarm_advice").replaceChildren(...advice.map((one) => element("li", one)));
}

function health(now) {
  const { listening, context_loaded, last_message, since, advice } = now.readiness;
  setText("last_message", last_message && last_message.slice(11, 19));
  isReceiving = listening;
  isRecording = now.recording;
  document.body.classList.toggle("silent", !isReceiving);
  if (isRecording) {
    pill("none", "recording");
    alarm("");
    return;
  }
  if (now.ready) {
    pill("good", "receiving the network");
    alarm("");
    return;
  }
  if (!listening) {
    const last = last_message ? "The last one came at" : "None has come since the start at";
    const begun = since ? `${last} ${clock(since)}, ${durationSince(since)} ago. ` : "";
    pill("bad", "not receiving");
    alarm("No vote or block comes from the network", begun + "Offences that happen now are not seen.", advice);
  } else {
    const begun = since ? `Since ${clock(since)}, for ${durationSince(since)}.` : "";
    pill("bad", "not ready");
    alarm(context_loaded ? "Nothing can be recorded" : "Registry and committees are not loaded", begun, advice);
  }
}

// Peers keep longest whom they have dialled, so it matters whether anybody can.
function showReach(connections) {
  const searches = connections !== null && connections.known_nodes !== null;
  by("reach").hidden = !searches;
  if (!searches) return;
  const times = connections.reached_from_outside;
  setText("reached", times > 0 ? `${grouped(times)} times` : "not yet");
  by("reach").title = `${connections.inbound} peers have dialled this node, it has dialled ${connections.outbound}; ${connections.known_nodes} nodes are known.`;
}

async function status() {
  let now;
  try {
    now = await getJson("v1/status");
  } catch (error) {
    document.body.classList.add("unknown");
    pill("bad", "no answer");
    const since = lastAnswer ? `Last answer: ${clock(lastAnswer.toISOString())}. The values below are from that time.` : "It has not answered since this page was opened.";
    alarm("slashwatch does not answer", since, ["Check that the process is running and that it listens on this address."]);
    throw error;
  }
  lastAnswer = new Date();
  document.body.classList.remove("unknown");
  setText("network", now.network);
  setText("version", "slashwatch " + now.version);
  setText("clock_slot", grouped(now.clock_slot));
  setText("head_slot", grouped(now.head.slot));
  setText("finalized", now.finalized && grouped(now.finalized.epoch));
  setText("peers", grouped(now.peers));
  showReach(now.connections);
  setText("validators", grouped(now.validators));
  setText("count", grouped(now.findings));
  setText("pending", grouped(now.deliveries.pending));
  setText("node", { connected: "connected", away: "away", not_configured: "none" }[now.node.state]);
  health(now);
  describeList();
  // The red box shows this text already.
  const notices = now.notices.filter((notice) => isReceiving || !notice.startsWith("no vote or block has come since"));
  if (now.node.state === "away") notices.unshift("No beacon node answers; the watcher continues with what it knows. " + now.node.reason);
  for (const gap of now.gaps.slice().reverse()) notices.push(`Not fully watched: slots ${gap.from_slot} to ${gap.to_slot}. ${gap.reason}`);
  const list = by("notices");
  const text = notices.join("\n");
  if (list.dataset.text !== text) {
    list.dataset.text = text;
    list.replaceChildren(...notices.map((notice) => element("li", notice)));
  }
  return now;
}

// ---- Findings: the server filters and sorts them.

const FILTERS = { kind: "kind", severity: "severity", label: "label", validator: "validator" };
// Rows by finding, newest first. A new filter starts a new list.
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

// Loads rows until there is a page of them. A page of the API may be short although more follow.
async function loadRows(cursor, wanted) {
  let found = [];
  for (let n = 0; n < MAX_ANSWERS && found.length < PAGE_ROWS; n++) {
    const page = await getJson(`v1/findings?order=desc&limit=${PAGE_ROWS}${wanted}${cursor ? "&cursor=" + cursor : ""}`);
    found = found.concat(page.findings);
    cursor = page.next;
    if (cursor === null) break;
  }
  return { found, next: cursor };
}

function describeList() {
  const n = list.shown.size;
  by("older").hidden = !list.next;
  if (!list.known) setText("none", "Loading findings.");
  else if (n) {
    const what = `${grouped(n)} ${list.filter ? "matching " : ""}finding${n > 1 ? "s" : ""}`;
    setText("none", list.next ? `Showing the newest ${what}; there are older ones.` : n > 1 ? `Showing all ${what}.` : `Showing ${what}.`);
  }
  else if (list.next) setText("none", "None of the newest findings matches; older ones may match.");
  else if (list.filter) setText("none", "No finding matches this filter.");
  else if (isRecording) setText("none", "This recording has no findings.");
  else if (!isReceiving) setText("none", "No findings so far. Nothing is received now, so this says nothing about the network.");
  else setText("none", "No findings so far. This is the normal case: about 500 of a million validators were ever slashed.");
}

function failed(error) {
  setText("none", /403/.test(error.message) ? "This label is not shown on public addresses." : /400/.test(error.message)
    ? "The filter is not valid. Write a label as key=value, and a validator as its index." : "The findings could not be loaded; trying again.");
}

// Loads the list from its beginning: at the start, and after a change of the filter.
async function load() {
  const wanted = filter();
  const mine = (list = { filter: wanted, shown: new Map(), next: null, known: false });
  rows.replaceChildren();
  describeList();
  try {
    const { found, next } = await loadRows(null, wanted);
    if (list !== mine) return;
    list.known = true;
    list.next = next;
    for (const finding of found) append(finding);
    describeList();
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
    const { found, next } = await loadRows(mine.next, mine.filter);
    if (list !== mine) return;
    list.next = next;
    for (const finding of found) append(finding);
    describeList();
  } catch (error) {
    failed(error);
  }
}

// Adds new findings at the top, and updates the rows that are shown.
async function refresh() {
  const mine = list;
  if (!mine.known) return load();
  const { found } = await loadRows(null, mine.filter);
  if (list !== mine) return;
  const isNew = (finding) => !list.shown.has(finding.id);
  // More findings are new than were loaded, so some between them and the list are missing.
  if (list.shown.size && found.length && found.every(isNew)) return load();
  for (const finding of found.slice().reverse()) {
    const made = row(finding, isNew(finding));
    const old = list.shown.get(finding.id);
    if (old) old.replaceWith(made);
    else rows.prepend(made);
    list.shown.set(finding.id, made);
  }
  describeList();
}

// ---- Incidents

const MAX_CARDS = 24;
const cards = new Map();

// Shows one card for each incident, the latest change first. Closed ones come last.
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
  if (details.subnets === "all") line("no message came from the network");
  if (details.suspected_cause) line(`suspected cause: ${details.suspected_cause.replaceAll("_", " ")}`);
  for (const text of details.because ?? []) line(text);
  for (const one of (incident.shared ?? []).slice(0, 3)) line(`${one.members} share ${one.what.replaceAll("_", " ")} ${one.value}`);
  if (incident.penalty) {
    const eth = (gwei) => (Number(gwei) / 1e9).toFixed(3) + " ETH";
    const p = incident.penalty;
    line(`penalty: ${eth(p.initial_gwei)} at once, ${eth(p.correlation_gwei_now)} later, ${eth(p.correlation_gwei_if_doubled)} later if twice as many are slashed`);
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
    const page = await getJson("v1/incidents?limit=1000" + cursor);
    page.incidents.forEach(showIncident);
    if (page.next === null) return;
    cursor = "&cursor=" + page.next;
  }
}

// ---- When to load: at once when the event stream announces something, else every few seconds.

let isStreaming = false;
let gathering = null;

function refreshSoon() {
  gathering ??= setTimeout(() => {
    gathering = null;
    Promise.all([refresh(), watched()]).catch(() => {});
  }, GATHER_MS);
}

function listen(after) {
  // The browser reconnects by itself and sends the last id that it saw, so nothing is missed.
  const events = new EventSource("v1/events?after=" + after);
  events.onopen = () => {
    isStreaming = true;
    setText("feed", "live updates");
  };
  events.onerror = () => {
    isStreaming = false;
    if (events.readyState !== EventSource.CLOSED) {
      setText("feed", "live updates are interrupted; refreshing every 5 s");
      return;
    }
    setText("feed", "no event stream is free; refreshing every 5 s");
    setTimeout(() => listen(after), STREAM_RETRY_MS);
  };
  events.addEventListener("incident", (event) => {
    showIncident(JSON.parse(event.data));
    refreshSoon();
  });
  events.addEventListener("finding", (event) => {
    after = event.lastEventId;
    refreshSoon();
  });
}

async function poll() {
  try {
    await status();
    if (isRecording && list.known) return;
    const work = [watched(), coverage()];
    if (!isStreaming || !list.known) work.push(refresh());
    if (!isStreaming) work.push(incidents());
    await Promise.all(work);
  } catch {
    // status() has shown that the server does not answer. The next poll follows soon.
  }
}

async function start() {
  let now;
  try {
    now = await status();
  } catch {
    setTimeout(start, STATUS_EVERY_MS);
    return;
  }
  setInterval(poll, STATUS_EVERY_MS);
  if (isRecording) setText("feed", "nothing new is recorded");
  else listen(now.findings);
  await Promise.all([load(), incidents(), watched(), coverage()]).catch(() => {});
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
start();
