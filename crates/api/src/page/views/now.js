// What happens now: the worst thing first, whether it is ours, and what to do.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { useHealth, useJson } from "../lib/data.js";
import { BarChart } from "../lib/charts.js";
import { FindingsList } from "../lib/findings.js";
import { Answer, Bars, Facts, Hash, Page, Section, SlotLink, Steps, Table, Time } from "../lib/parts.js";
import { replace } from "../lib/search.js";
import { ago, grouped, percent, plural } from "../lib/text.js";
import {
  alarmKinds, ANOMALIES, causeOfKind, dangers, foremost, incidentName, incidentWords, isOpen, keysHit, kindName, nowIfMine, nowIfNotMine,
  OFFENCES, ownOffence, sorted, STATES, switchName, SWITCHES, switchState,
} from "../lib/words.js";
import { IncidentCards, useIncidents } from "./incidents.js";

const CARDS = 6;
const GATHER_MS = 400;

// Which incident the banner is about: the worst open one; of a recording the worst of all.
function headline(status, incidents) {
  const worst = foremost(incidents)[0];
  if (!worst) return null;
  return status.recording || (isOpen(worst) && worst.severity !== "info") ? worst : null;
}

// In a recording without a list of keys only the names of groups are known, from kill switches.
const hasKeys = (group) => group.validators > 0 || group.unknown_keys > 0;

const isUneasy = (group, { stopped, earlier, armed }) => stopped.includes(group) || earlier.includes(group) || (group.alarms.worst && !armed.includes(group)) || group.missing;

// What happened before the kill switch was made ready again has been dealt with, and is not hidden.
function ArmedAgain({ groups }) {
  return groups.map((group) => html`<p key=${group.name}>The kill switch of ${group.name} is armed again since <${Time} of=${group.kill_switch.armed_again_at} /> UTC.${group.offences.newest ? html` Its last offence before that was <a href=${"/findings/" + group.offences.newest.finding}>${ago(group.offences.newest.at)}</a>.` : ""}</p>`);
}

// Whether it is ours: by what our keys did, or cannot take back any more.
function Mine({ groups, mine, danger, incident, isSure, status }) {
  if (groups.error?.status === 403) return html`<p>Watched keys are not shown on this address.</p>`;
  if (!groups.data) return html`<p>Loading.</p>`;
  const all = groups.data.groups;
  const watched = html`<p><a href="/watch">Watched keys and kill switches</a></p>`;
  if (!all.some(hasKeys)) {
    const own = incident?.shared?.filter((one) => one.what === "label:group") ?? [];
    const switches = all.map((group) => html`<p key=${group.name}>${group.name}: ${switchName(group, status)}.</p>`);
    if (own.length) return html`<p class="answer bad">Yes: ${own.map((one) => `${grouped(one.members)} of group ${one.value}`).join(", ")}</p>${switches}`;
    return html`<p class="answer">Not known: no keys are configured here.</p><p>Search your index or public key above, or ${status.recording ? html`give your keys to <code>serve</code> with <code>--watch FILE</code>` : html`name your keys under <code>[watch]</code>`}.</p>${switches}`;
  }
  const { hit, stopped, earlier, armed } = mine;
  const armedAgain = armed.length > 0 && html`<${ArmedAgain} groups=${armed} />`;
  const keys = all.reduce((sum, group) => sum + group.validators, 0);
  const switchWords = (group) => switchName(group, status);
  const others = stopped.length > 0 && html`<p>No offence of its own, but the kill switch has fired: ${stopped.map((group) => group.name + ({ failed: " (FAILED: stop it by hand)", dry: " (a dry run: nothing was stopped)" }[switchState(group)] ?? "")).join(", ")}.</p>`;
  const threats = danger.found.map((one) => html`<p key=${one.text} class="critical">${one.text}</p>`);
  if (hit.length) {
    return html`<p class="answer bad">Yes: ${hit.map((group) => group.name).join(", ")}</p>
      <ul>${hit.map((group) => html`<li key=${group.name}>${group.name}, ${keysHit(group)}: ${alarmKinds(group.alarms)}; ${switchWords(group)}</li>`)}</ul>
      ${others}${armedAgain}${threats}${watched}`;
  }
  if (danger.found.length) {
    return html`<p class="answer bad">Not yet, but in danger: ${[...new Set(danger.found.flatMap((one) => one.groups.map((group) => group.name)))].join(", ")}</p>${threats}${others}${armedAgain}${watched}`;
  }
  if (danger.unknown.length) return html`<p class="answer wait">${danger.unknown[0]}</p>${danger.unknown.slice(1).map((one) => html`<p key=${one}>${one}</p>`)}${others}${armedAgain}${watched}`;
  const uneasy = all.filter((group) => isUneasy(group, mine));
  if (uneasy.length) {
    return html`<p class="answer wait">No ${armed.length ? "new " : ""}offence of yours${earlier.length ? " in the last days" : ""}, but look at ${uneasy.map((group) => group.name).join(", ")}</p>
      ${others}${earlier.map((group) => html`<p key=${group.name}>${group.name}: the last one was <a href=${"/findings/" + group.offences.newest.finding}>${ago(group.offences.newest.at)}</a>.</p>`)}${armedAgain}<p><a href="/watch">Watched keys</a></p>`;
  }
  if (!isSure || groups.error) return html`<p class="answer wait">Not known now</p><p>The last answer named no offence of your ${plural(keys, "key")}.</p>`;
  if (danger.isOpen) {
    return html`<p class="answer">No ${armed.length ? "new " : ""}offence of your ${plural(keys, "key")}, and none ${danger.isPartly ? "of those that were heard " : ""}is known to be on the side that cannot come back, or ahead of the clock.</p>${armedAgain}<p><a href="/watch">Watched keys</a></p>`;
  }
  if (armed.length) return html`<p class="answer good">No new offence of your ${plural(keys, "key")}.</p>${armedAgain}<p><a href="/watch">Watched keys</a></p>`;
  if (incident?.offences) return html`<p class="answer good">No: none of your ${plural(keys, "key")} is in it.</p><p><a href="/watch">Watched keys</a></p>`;
  return html`<p class="answer good">No. All quiet in ${plural(all.length, "group")}, ${plural(keys, "key")}.</p><p><a href="/watch">Watched keys</a></p>`;
}

function Verdict({ status, error, incidents, groups }) {
  const incident = headline(status, incidents);
  const others = incidents.filter((one) => one !== incident && (status.recording || isOpen(one)) && one.severity !== "info").length;
  const isSure = !error && (status.recording || status.ready);
  const all = groups.data?.groups ?? [];
  const mine = sorted(all, status);
  const danger = dangers(all, incidents, status);
  const uneasy = all.filter((group) => isUneasy(group, mine));
  const offence = mine.hit.length ? ownOffence(mine.hit) : null;
  const { what, now: ofKind } = incident ? incidentWords(incident) : { what: "", now: [] };
  const isWave = Boolean(incident?.offences);
  const more = others > 0 && html` <a href="/incidents">${plural(others, "more incident")}</a>.`;
  // Our own offence goes before everything that happens to others.
  const now = offence
    ? nowIfMine(mine.hit, { all, incident: isWave ? incident : null, cause: isWave ? incident.details.suspected_cause : causeOfKind(offence.kind), status })
    : [
      ...mine.stopped.map((group) => `Look at ${group.name}: its kill switch ${SWITCHES[switchState(group)] ?? group.kill_switch.state}.`),
      ...danger.found.flatMap((one) => one.now),
      ...(isWave && all.some(hasKeys) && !mine.armed.length ? nowIfNotMine(incident, all) : ofKind),
      ...(uneasy.length ? [{ text: "Look at ", link: ["/watch", `the keys of ${uneasy.map((group) => group.name).join(", ")}`], after: "." }] : []),
    ];
  const tone = offence || danger.found.length ? "critical" : incident ? incident.severity : status.recording || !isSure || mine.stopped.length || mine.earlier.length ? "none" : "good";
  const quiet = status.recording ? "This recording has no incidents" : isSure ? "All quiet: no incident is open" : "Nothing is known now";
  return html`<section class=${"verdict " + tone} aria-label="In short">
    <div>
      <h2>What happened?</h2>
      ${offence && html`<p class="answer bad"><a href=${"/findings/" + offence.finding}>${offence.text}</a></p><p class="soft">At <${Time} of=${offence.at} /> UTC${status.recording ? "" : `, ${ago(offence.at)}`}.</p>`}
      ${incident ? html`
        <p class=${offence ? "also" : "answer"}><a href=${"/incidents/" + incident.id}>${incidentName(incident)}</a>, ${STATES[incident.state] ?? incident.state}</p>
        <p>${what}</p>
        <p class="soft">Slots ${grouped(incident.first_slot)} to ${grouped(incident.last_slot)}; noticed <${Time} of=${incident.opened_at} /> UTC${status.recording ? "" : `, ${ago(incident.opened_at)}`}.${more}</p>`
      : html`<p class=${offence ? "" : "answer"}>${offence ? "No incident is open" : quiet}.</p>
        <p>${plural(status.findings, "finding")} ${status.recording ? "in it" : "since the beginning"}.${more}</p>`}
    </div>
    <div><h2>Is it mine?</h2><${Mine} groups=${groups} mine=${mine} danger=${danger} incident=${incident} isSure=${isSure} status=${status} /></div>
    <div><h2>What now?</h2>${now.length ? html`<${Steps} of=${now} />` : html`<p>${isSure ? "Nothing." : "See the red box above."}</p>`}</div>
  </section>`;
}

const shareWords = (share) => (share > 1 ? "100\u202f%, some voted twice" : percent(share));

function participationRow(row) {
  const share = row.participation;
  return {
    x: row.slot,
    name: grouped(row.slot),
    // Who votes twice for a slot counts twice.
    value: share === null && !row.seats ? null : Math.min(1, share ?? row.voters / row.seats),
    tone: row.findings !== 0 ? "bad" : share !== null && share < 2 / 3 ? "wait" : "",
    note: `Slot ${grouped(row.slot)}: ${share === null ? `${grouped(row.voters)} voters` : shareWords(share)}, ${plural(row.blocks, "block")}, ${plural(row.heads, "head")}${row.findings === null ? ", many findings" : row.findings ? `, ${plural(row.findings, "finding")}` : ""}`,
  };
}

export function Participation({ rows }) {
  const known = rows.some((row) => row.participation !== null);
  const chart = rows.map(participationRow);
  // A recording does not know who should have voted, so the voters themselves are drawn.
  const drawn = known ? chart : rows.map((row, n) => ({ ...chart[n], value: row.voters }));
  return html`<${BarChart} label=${`Participation by slot, ${plural(rows.length, "slot")}`} rows=${drawn} max=${known ? 1 : undefined}
      axis=${known ? (value) => Math.round(value * 100) + "\u202f%" : grouped} marks=${known ? [2 / 3] : []}
      unit=${known ? "Share of the seats of each slot that voted. Dashed: two thirds. Brown: fewer. Red: slots that findings are about, or in which those of clocks that ran ahead became known." : "Voters of each slot. Red: slots that findings are about, or in which those of clocks that ran ahead became known."} />
    <details><summary>As a table</summary><${Table} label="Participation by slot" keyOf=${(row) => row.slot} rows=${[...rows].reverse()} columns=${[
      ["Slot", (row) => html`<${SlotLink} slot=${row.slot} />`],
      ["Voted", (row) => row.participation === null ? `${grouped(row.voters)} voters` : shareWords(row.participation)],
      ["Blocks", (row) => row.blocks], ["Heads", (row) => row.heads], ["Findings", (row) => row.findings ?? "too many to count"],
    ]} /></details>`;
}

function HeadsNow({ heads }) {
  const rows = heads.branches.map((branch) => [`${branch.end.slice(0, 10)}… slot ${branch.slot}`, branch.weight_share ?? 0, percent(branch.weight_share, plural(branch.votes.votes, "vote"))]);
  return html`<${Bars} label="Weight of each branch" rows=${rows.slice(0, 5)} empty="No votes for any head yet." />
    <${Facts} of=${[
      ["Head", html`<${SlotLink} slot=${heads.head.slot} /> <${Hash} of=${heads.head.root} />`],
      ["Justified epoch", heads.justified ? grouped(heads.justified.epoch) : "not yet known"],
      ["Finalized epoch", heads.finalized ? grouped(heads.finalized.epoch) : "not yet known"],
    ]} />
    <p><a href="/heads">${heads.is_split ? "The chain is split: see the branches" : "Branches"}</a></p>`;
}

function Tiles({ status }) {
  const reach = status.connections;
  const heard = status.coverage;
  return html`<${Facts} columns=${true} of=${[
    ["Clock slot", html`<${SlotLink} slot=${status.clock_slot} />`],
    ["Head slot", grouped(status.head.slot)],
    ["Finalized epoch", status.finalized ? grouped(status.finalized.epoch) : "not yet known"],
    !status.recording && ["Last message", status.readiness.last_message ? status.readiness.last_message.slice(11, 19) : "none yet"],
    !status.recording && ["Peers", grouped(status.peers)],
    reach && reach.known_nodes !== null && ["Reached from outside", reach.reached_from_outside ? plural(reach.reached_from_outside, "time") : "not yet"],
    heard && ["Stake heard first-hand", percent(heard.first_hand)],
    status.validators > 0 && ["Validators", grouped(status.validators)],
    ["Findings", grouped(status.findings)],
    !status.recording && ["Alerts waiting", grouped(status.deliveries.pending)],
    !status.recording && ["Beacon node", { connected: "connected", away: "away", not_configured: "none" }[status.node.state], status.node.state === "away" ? "wait" : ""],
  ]} />`;
}

export function Notices({ status }) {
  const notices = status.notices.filter((notice) => status.readiness.listening || !notice.startsWith("no vote or block has come since"));
  if (status.node.state === "away") notices.unshift("No beacon node answers; the watcher continues with what it knows. " + status.node.reason);
  for (const gap of [...status.gaps].reverse()) notices.push(`Not fully watched: slots ${grouped(gap.from_slot)} to ${grouped(gap.to_slot)}. ${gap.reason}`);
  if (!notices.length) return null;
  return html`<ul class="notices">${notices.map((notice) => html`<li key=${notice}>${notice}</li>`)}</ul>`;
}

// Waits until the reader stops typing.
function TypedFilter({ name, value, set, ...rest }) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  useEffect(() => {
    if (text.trim() === value) return undefined;
    const timer = setTimeout(() => set(name, text.trim()), GATHER_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return html`<input ...${rest} value=${text} onInput=${(event) => setText(event.currentTarget.value)} />`;
}

// A filter is part of the address, so that a filtered list can be sent to a colleague.
function Filters({ params }) {
  const set = (name, value) => {
    const next = new URLSearchParams(location.search);
    if (value) next.set(name, value);
    else next.delete(name);
    const text = next.toString();
    replace("/" + (text ? "?" + text : ""));
  };
  const chosen = (name) => (event) => set(name, event.currentTarget.value);
  const option = (name) => (value) => html`<option key=${value} value=${value} selected=${params.get(name) === value}>${name === "kind" ? kindName(value) : value}</option>`;
  return html`<div class="filters">
    <label>Kind <select onChange=${chosen("kind")}><option value="">all</option><optgroup label="Offences">${OFFENCES.map(option("kind"))}</optgroup><optgroup label="Anomalies">${ANOMALIES.map(option("kind"))}</optgroup></select></label>
    <label>Severity <select onChange=${chosen("severity")}><option value="">all</option>${["critical", "warning", "info"].map(option("severity"))}</select></label>
    <label>Label <${TypedFilter} name="label" set=${set} value=${params.get("label") ?? ""} size="16" placeholder="group=acme-1" /></label>
    <label>Validator <${TypedFilter} name="validator" set=${set} value=${params.get("validator") ?? ""} size="9" inputmode="numeric" placeholder="index" /></label>
  </div>`;
}

const FILTERS = ["kind", "severity", "label", "validator", "group", "since_slot", "until_slot", "incident"];

export function Now({ query }) {
  const { status, error } = useHealth();
  const incidents = useIncidents();
  // With the incidents, so that their numbers are of one moment.
  const groups = useJson("/v1/watch/groups", ["poll", "finding", "incident"]);
  const participation = useJson("/v1/participation?slots=64", ["poll"]);
  const heads = useJson("/v1/heads", ["poll"]);
  const params = new URLSearchParams(query);
  const filter = FILTERS.filter((name) => params.get(name)).map((name) => `&${name}=${encodeURIComponent(params.get(name))}`).join("");
  useEffect(() => {
    if (filter) document.getElementById("s-findings")?.scrollIntoView();
  }, []);
  return html`<${Page} title=${status?.recording ? "What was recorded" : "What happens now"}>
    ${status && html`<${Answer} of=${incidents} what="incidents">${(data) => html`<${Verdict} status=${status} error=${error || incidents.error} incidents=${data.incidents} groups=${groups} />`}<//>`}
    ${status && html`<${Notices} status=${status} />`}
    <div class="split">
      <div>
        <${Section} title="Incidents"><${Answer} of=${incidents} what="incidents">${(data) => html`<${IncidentCards} incidents=${data.incidents} most=${CARDS} empty="No incidents so far." />`}<//><//>
        <${Section} title="Findings" note="Newest first; new ones appear by themselves. Times are UTC.">
          <${Filters} params=${params} />
          <${FindingsList} filter=${filter} />
        <//>
      </div>
      <div>
        <${Section} title="Participation"><${Answer} of=${participation} what="participation by slot">${(data) => html`<${Participation} rows=${data.slots} />`}<//><//>
        <${Section} title="Heads and finality"><${Answer} of=${heads} what="heads">${(data) => html`<${HeadsNow} heads=${data} />`}<//><//>
        ${status && html`<${Section} title="This watcher"><${Tiles} status=${status} /><//>`}
      </div>
    </div>
    <${Meanings} />
  <//>`;
}

function Meanings() {
  return html`<details class="meanings"><summary>What the words mean</summary><dl class="words">
    <dt>Double vote</dt><dd>A validator signed two different votes for one target epoch. The usual cause is that one key runs on two machines.</dd>
    <dt>Surround vote</dt><dd>A validator signed a vote that surrounds another of its votes: its source is older and its target is newer. This happens when validators leave a branch that was justified wrongly.</dd>
    <dt>Double proposal</dt><dd>A proposer signed two different blocks for one slot.</dd>
    <dt>Critical, warning, info</dt><dd>Critical: a proven offence that can be punished, or an alarm of a watched key. Warning and info: anomalies, and offences that cannot be punished any more.</dd>
    <dt>Heard first-hand</dt><dd>Votes that come directly from the node that publishes them. Of such validators a second, contradicting message is heard too; of others only if the network happens to carry it here.</dd>
    <dt>Punishable</dt><dd>Whether a block can still include the proof: until the validator is slashed or withdrawable, or until the offence is two forks old.</dd>
    <dt>Proof</dt><dd>The slashing with both signatures, as the pool of a beacon node accepts it. <a href="/v1/submissions">Submissions</a> lists the proofs that were sent to nodes, if submission is switched on.</dd>
  </dl></details>`;
}
