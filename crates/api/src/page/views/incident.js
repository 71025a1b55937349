// One incident: what it is, why, how it grew, who is in it, what it costs, and what is next.
import { html, useMemo } from "../vendor/preact-htm.js";
import { BarChart, StepChart } from "../lib/charts.js";
import { useAll, useHealth, useJson, useRoutes } from "../lib/data.js";
import { Answer, Bars, Command, EpochLink, Facts, LongTable, Page, Pill, Section, SlotLink, Steps, Table, Time, TONES, ValidatorLink } from "../lib/parts.js";
import { between, eth, grouped, plural, span, words } from "../lib/text.js";
import {
  causeTitle, dangers, incidentName, incidentWords, isOpen, kindName, nowIfMine, nowIfNotMine, OFFENCES, sharedLabels, STATES, switchState,
} from "../lib/words.js";
import { Details } from "./finding.js";

// Findings of an incident that are loaded at most, for its members and its chart.
const MOST_FINDINGS = 20000;

export function Incident({ id }) {
  const incident = useJson("/v1/incidents/" + encodeURIComponent(id), ["incident", "finding"]);
  return html`<${Page} title=${incident.data ? incidentName(incident.data) : "Incident"} crumb=${html`<a href="/incidents">Incidents</a>`}>
    <${Answer} of=${incident} what="this incident">${(data) => html`<${Body} incident=${data} />`}<//>
  <//>`;
}

function Body({ incident }) {
  const { what, now: ofKind } = incidentWords(incident);
  const groups = useJson("/v1/watch/groups", ["poll", "finding", "incident"]);
  const isWave = Boolean(incident.offences);
  const findings = useAll(isWave ? `/v1/findings?limit=1000&incident=${incident.id}` : null, "findings", MOST_FINDINGS, [],
    (rows) => hasAllMembers(membersOf(rows), incident));
  const members = useMemo(() => membersOf(findings.rows), [findings.rows]);
  const known = groups.data?.groups ?? [];
  const own = [...namedGroups(incident, members, known).keys()].map((name) => known.find((group) => group.name === name) ?? { name });
  const { status } = useHealth();
  const isMine = own.length > 0 && (isWave || incident.kind === "unpunished_offence");
  // Nobody else is a member, so none of the reader's groups is hit.
  const isOthers = isWave && !own.length && known.length > 0 && isWhole(findings, members, incident);
  const danger = isOpen(incident) && (incident.kind === "checkpoint_split" || incident.kind === "clock_skew") ? dangers(known, [incident], status ?? {}) : null;
  const now = isMine ? nowIfMine(own, { all: known, cause: incident.details.suspected_cause, incident, status })
    : isOthers ? nowIfNotMine(incident, known)
      : [...(danger?.found.flatMap((one) => one.now) ?? []), ...ofKind];
  return html`
    <section class=${"verdict " + (isOpen(incident) ? incident.severity : "none")} aria-label="In short">
      <div><h2>What happened?</h2><p class="answer">${what}</p>
        <p><${Pill} tone=${isOpen(incident) ? TONES[incident.severity] : "none"}>${incident.severity}, ${STATES[incident.state] ?? incident.state}<//></p></div>
      <div><h2>Is it mine?</h2><${Mine} incident=${incident} groups=${groups} members=${members} findings=${findings} danger=${danger} /></div>
      <div><h2>What now?</h2><${Steps} of=${now} /></div>
    </section>
    <div class="split even">
      <${Section} title="Timeline"><${Timeline} incident=${incident} members=${members} /><//>
      <${Section} title="Cause"><${Cause} incident=${incident} /><//>
    </div>
    ${isWave && html`<${Section} title="How it grew"><${Growth} incident=${incident} members=${members} findings=${findings} /><//>`}
    <div class="split even">
      ${incident.shared?.length > 0 && html`<${Section} title="What the members share" note="Told where it is at least twice as frequent among them as among all validators."><${Shared} incident=${incident} /><//>`}
      ${incident.penalty && html`<${Section} title="What it costs"><${Penalty} incident=${incident} /><//>`}
      ${isWave && html`<${Section} title="Which of mine are next"><${Next} incident=${incident} groups=${groups} members=${members} findings=${findings} /><//>`}
      <${Section} title="Evidence"><${Pack} incident=${incident} /><//>
    </div>
    ${isWave && html`<${Section} title="Members"><${Members} members=${members} findings=${findings} incident=${incident} /><//>`}
    <${Section} title="Details"><${Details} of=${rest(incident.details)} /><//>`;
}

// What is not shown in a section of its own.
function rest({ because, suspected_cause: cause, joined_by_epoch: joined, first_message: first, ...others }) {
  return others;
}

// One row for each validator that contradicted itself, in the order in which that became known.
function membersOf(findings) {
  const members = new Map();
  for (const finding of findings) {
    if (!OFFENCES.includes(finding.kind) || !finding.validator) continue;
    const known = members.get(finding.validator.index);
    const at = finding.second_seen ?? finding.first_seen;
    if (known) {
      known.offences += 1;
      known.kinds.add(finding.kind);
      if (at < known.at) Object.assign(known, { at, finding });
      known.isIncluded ||= Boolean(finding.included);
      known.isAtStake ||= finding.severity === "critical";
    } else members.set(finding.validator.index, { index: finding.validator.index, labels: finding.validator.labels, at, finding, offences: 1, kinds: new Set([finding.kind]), isIncluded: Boolean(finding.included), isAtStake: finding.severity === "critical" });
  }
  return [...members.values()].sort((a, b) => (a.at < b.at ? -1 : 1));
}

// The incident counts those that have something to lose.
const hasAllMembers = (members, incident) => members.filter((member) => member.isAtStake).length >= Number(incident.validators ?? Infinity);

// Whether all members are known, so that nobody else is one.
const isWhole = (findings, members, incident) => findings.isDone && !findings.error && (!findings.isCut || hasAllMembers(members, incident));

// The reader's groups in an incident, with the number of their keys, or null if that is not known.
// Groups that are not configured any more count only where no others are.
function namedGroups(incident, members, known) {
  const named = new Map();
  for (const member of members) for (const label of member.labels) if (label.startsWith("group=")) named.set(label.slice(6), (named.get(label.slice(6)) ?? 0) + 1);
  for (const label of incident.details.labels ?? []) if (label.startsWith("group=") && !named.has(label.slice(6))) named.set(label.slice(6), null);
  if (known.length) for (const name of named.keys()) if (!known.some((group) => group.name === name)) named.delete(name);
  return named;
}

function Mine({ incident, groups, members, findings, danger }) {
  const named = namedGroups(incident, members, groups.data?.groups ?? []);
  if (named.size) return html`<p class="answer bad">Yes: ${[...named].map(([name, n]) => (n === null ? name : keysOf(name, n, groups.data?.groups ?? []))).join(", ")}</p><p><a href="/watch">Watched keys and kill switches</a></p>`;
  if (groups.error?.status === 403) return html`<p>Watched keys are not shown on this address.</p>`;
  if (!groups.data) return html`<p>Loading.</p>`;
  if (!groups.data.groups.length) return html`<p class="answer">Not known: no keys are configured here.</p><p>${members.length ? "Look for your index among the members below, or search it above." : "Search your index or public key above."}</p>`;
  const keys = groups.data.groups.reduce((sum, group) => sum + group.validators, 0);
  if (danger?.found.length) return html`<p class="answer bad">Not yet, but in danger</p>${danger.found.map((one) => html`<p key=${one.text} class="critical">${one.text}</p>`)}<p><a href="/watch">Watched keys and kill switches</a></p>`;
  if (danger?.unknown.length) return html`<p class="answer wait">${danger.unknown[0]}</p><p><a href="/watch">Your keys: what each group missed</a></p>`;
  if (danger) return html`<p class="answer">None of your ${plural(keys, "key")}${danger.isPartly ? " of which votes were heard" : ""} is known to be on the side that cannot come back, or ahead of the clock.</p>`;
  if (!incident.offences) return html`<p class="answer">It names no single validators.</p><p><a href="/watch">Your keys: what each group missed</a></p>`;
  if (!findings.isDone) return html`<p class="answer">Looking for your keys among the members.</p>`;
  if (!isWhole(findings, members, incident)) return html`<p class="answer wait">Not known: not all members could be read.</p><p><a href="/watch">Watched keys and their alarms</a></p>`;
  return html`<p class="answer good">No: none of your ${plural(keys, "key")} is in it.</p>`;
}

// "20 of 38 keys of eu-1"
function keysOf(name, n, known) {
  const group = known.find((one) => one.name === name);
  return group ? `${grouped(n)} of ${plural(group.validators, "key")} of ${name}` : `${plural(n, "key")} of ${name}`;
}

function Timeline({ incident, members }) {
  const first = incident.details.first_message;
  const length = incident.closed_at ? between(incident.opened_at, incident.closed_at) / 1000 : null;
  const rows = [
    first && ["First message", html`validator <${ValidatorLink} index=${first.validator} /> in slot <${SlotLink} slot=${first.slot} />, known in slot <${SlotLink} slot=${first.known_in_slot} /> · <a href=${"/findings/" + first.finding}>${kindName(first.kind)}</a>`],
    ["First slot", html`<${SlotLink} slot=${incident.first_slot} />`],
    ["Noticed", html`<${Time} of=${incident.opened_at} precise /> UTC`],
    members.length > 0 && ["Last member joined", html`<${Time} of=${members.at(-1).at} precise /> UTC`],
    ["Last slot", html`<${SlotLink} slot=${incident.last_slot} />`],
    ["Over", incident.closed_at ? html`<${Time} of=${incident.closed_at} precise /> UTC, after ${span(length)}` : "not yet"],
    incident.validators && ["Validators", grouped(incident.validators)],
    incident.offences && ["Offences", OFFENCES.filter((kind) => incident.offences[kind] !== "0").map((kind) => `${grouped(incident.offences[kind])} ${kindName(kind).toLowerCase()}s`).join(", ")],
    ["Id", html`<code class="whole">${incident.id}</code>`],
  ];
  return html`<${Facts} of=${rows} />`;
}

function Cause({ incident }) {
  const { suspected_cause: cause, because = [] } = incident.details;
  if (!cause) return html`<p>${incidentWords(incident).what}</p><p class="note">No cause is named for this kind of incident. The details below say what was seen.</p>`;
  return html`<p class="answer">${cause === "unknown" ? "Not known yet" : `Suspected: ${causeTitle(cause)}`}</p>
    ${because.length > 0 && html`<p>Because:</p><ul>${because.map((one) => html`<li key=${one} class="break">${words(one)}</li>`)}</ul>`}`;
}

function Growth({ incident, members, findings }) {
  const by = Object.entries(incident.details.joined_by_epoch ?? {}).map(([epoch, n]) => [Number(epoch), n]).sort((a, b) => a[0] - b[0]);
  const byEpoch = by.length > 0 && html`<${BarChart} label="New members by epoch" height=${150} unit="New members by epoch"
    rows=${by.map(([epoch, n]) => ({ x: epoch, value: n, note: `Epoch ${grouped(epoch)}: ${plural(n, "new member")}` }))} />`;
  if (members.length < 2) return findings.isDone ? byEpoch : html`<p class="quiet" role="status">Loading members.</p>`;
  const [from, to] = [Date.parse(members[0].at), Date.parse(members.at(-1).at)];
  const reach = to - from;
  const points = members.map((member, n) => ({ at: Date.parse(member.at), value: n + 1 }));
  const axisX = (at) => new Date(at).toISOString().slice(11, reach < 600000 ? 19 : 16);
  return html`<div class="split even">
    <${StepChart} label=${`Validators that contradicted themselves: ${members.length} from ${members[0].at} to ${members.at(-1).at}`} points=${points} from=${from} to=${Math.max(to, from + 1)} axisX=${axisX} unit="Validators so far, by UTC time of their first contradiction" />
    ${byEpoch}
  </div>
  ${by.length > 0 && html`<details><summary>As a table</summary><${Table} label="New members by epoch" rows=${by} columns=${[["Epoch", ([epoch]) => html`<${EpochLink} epoch=${epoch} />`], ["New members", ([, n]) => grouped(n)]]} /></details>`}`;
}

const SHARED = { client: "Client", withdrawal_credential: "Withdrawal credentials", activation_epoch: "Activated in epoch", fork_side: "Voted for" };

function Shared({ incident }) {
  const all = Number(incident.validators ?? 0);
  const kinds = [...new Set(incident.shared.map((one) => one.what))];
  return kinds.map((kind) => {
    const rows = incident.shared.filter((one) => one.what === kind);
    const name = SHARED[kind] ?? "Label " + kind.replace(/^label:/, "");
    return html`<h3 key=${kind}>${name}</h3><${Bars} label=${name} rows=${rows.slice(0, 12).map((one) => [one.value.length > 34 ? one.value.replace(/0x([0-9a-f]{8})[0-9a-f]+/, "0x$1…") : one.value, all ? Number(one.members) / all : 0, `${grouped(one.members)} of ${grouped(all)}`])} />`;
  });
}

function Penalty({ incident }) {
  const p = incident.penalty;
  const now = Number(p.initial_gwei) + Number(p.correlation_gwei_now);
  // Of the same members, who lose more if others follow them.
  const doubled = Number(p.initial_gwei) + Number(p.correlation_gwei_if_doubled);
  return html`<${Facts} of=${[
    ["At once", eth(p.initial_gwei)],
    ["Correlation penalty later, as it is now", eth(p.correlation_gwei_now)],
    ["Together now", eth(now), "critical"],
    ["Correlation penalty if twice as much is slashed", eth(p.correlation_gwei_if_doubled)],
    ["Together if twice as much is slashed", eth(doubled)],
    ["A validator with 32 ETH loses", eth(p.per_32_eth_gwei)],
  ]} /><p class="note">Of the ${plural(incident.validators, "validator")} of this incident together, whosever they are. Duties missed until withdrawal come on top.</p>`;
}

function Next({ incident, groups, members, findings }) {
  const { status } = useHealth();
  if (groups.error?.status === 403) return html`<p class="quiet">Watched keys are not shown on this address.</p>`;
  if (!groups.data?.groups.length) return html`<p>No keys are watched here, so nobody can say which of yours are next. Name yours under <code>[watch]</code> in the configuration.</p>`;
  const cause = incident.details.suspected_cause;
  const all = groups.data.groups;
  const struck = (group) => members.filter((member) => member.labels.includes("group=" + group.name)).length;
  const hit = all.filter((group) => struck(group));
  const rows = all.map((group) => ({ group, n: struck(group), shares: sharedLabels(group, hit, incident) }));
  // Those that are hit, then those that share most with them.
  rows.sort((a, b) => b.n - a.n || b.shares.length - a.shares.length);
  return html`<${Table} label="Own groups and this incident" rows=${rows} keyOf=${(row) => row.group.name} columns=${[
    ["Group", ({ group }) => group.name],
    ["In it", ({ n }) => html`<span class=${n ? "critical" : ""}>${grouped(n)}</span>`],
    ["Still safe", ({ group, n }) => grouped(group.validators - n)],
    ["Shares", ({ n, shares }) => (n ? "–" : html`<span class=${shares.length ? "warning" : ""}>${shares.join(", ") || "nothing"}</span>`), "text"],
    ["Kill switch", ({ group }) => switchState(group, status)],
  ]} />
  <p>${hit.length ? `The keys that are still safe are next if the cause (${causeTitle(cause ?? "unknown")}) is theirs too, first those that share a label with the members: stop them first, ask later.` : isWhole(findings, members, incident) ? "None of yours is in it." : findings.isDone ? "Not all members could be read." : "Looking for yours among the members."}</p>`;
}

function Pack({ incident }) {
  const routes = useRoutes();
  const hasPack = routes?.has("/v1/incidents/{id}/pack");
  return html`${hasPack ? html`<p>A zip file with the proofs, the timeline, what the network saw each member sign (EIP-3076), and the draft of a post-mortem.</p>
    <p class="buttons"><a class="button" href=${`/v1/incidents/${incident.id}/pack`} download=${`incident-${incident.id.slice(2, 10)}.zip`}>Evidence pack</a> <a class="button" href=${"/v1/incidents/" + incident.id}>Incident as JSON</a></p>
    <h3>Check a proof of it</h3><${Command} label="Command that checks a proof of the pack" text=${"slashwatch verify-proof proofs/FILE.json --network ."} /><p class="note">Run it in the unpacked folder: the pack has the network's configuration.</p>`
    : html`<p>The evidence pack is not available in this version.</p><p class="buttons"><a class="button" href=${"/v1/incidents/" + incident.id}>Incident as JSON</a></p>`}
    <p><a href=${`/?incident=${incident.id}`}>All findings of this incident</a></p>`;
}

function Members({ members, findings, incident }) {
  if (findings.error) return html`<p class="stale">The members could not be loaded: ${findings.error.message}.</p>`;
  return html`
    ${!findings.isDone && html`<p class="quiet" role="status">Loading: ${grouped(members.length)} of ${grouped(incident.validators)} so far.</p>`}
    ${findings.isCut && html`<p class="note">${hasAllMembers(members, incident) ? "All members, and their offences as far as they are" : "From what is"} in the first ${grouped(findings.rows.length)} findings of these slots.</p>`}
    <${LongTable} label="Members" rows=${members} keyOf=${(row) => row.index} per=${50} empty=${findings.isDone ? "No member is known from findings." : "Loading."} columns=${[
      ["Validator", (row) => html`<${ValidatorLink} index=${row.index} />`],
      ["Joined", (row) => html`<${Time} of=${row.at} precise />`],
      ["First contradiction", (row) => html`<a href=${"/findings/" + row.finding.id}>${kindName(row.finding.kind)}</a>`],
      ["Slot", (row) => html`<${SlotLink} slot=${row.finding.slot} />`, "extra"],
      ["Offences", (row) => grouped(row.offences)],
      ["Labels", (row) => row.labels.join(", ") || "–", "extra"],
      ["Included", (row) => (row.isIncluded ? "yes" : "no"), "extra"],
    ]} />`;
}
