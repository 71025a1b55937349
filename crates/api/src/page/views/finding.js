// One finding: the two messages side by side, when and where each was heard, the proof, and what to
// do with it. A double proposal also shows both blocks against the deadlines of their slot.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { SlotChart, SpanChart } from "../lib/charts.js";
import { useHealth, useJson, useWhileRecent } from "../lib/data.js";
import { Answer, Command, EpochLink, Facts, Hash, LabelLink, Page, Section, Severity, SlotLink, Steps, Tally, Time, ValidatorLink } from "../lib/parts.js";
import { headerRoot } from "../lib/roots.js";
import { between, grouped, millis, plural, words } from "../lib/text.js";
import { useIncidents } from "./incidents.js";
import { dataDir, findingStory, kindName, punishableWords, sourceName, switchName, voteDifferences, whatNow } from "../lib/words.js";

export function Finding({ id }) {
  const finding = useJson("/v1/findings/" + encodeURIComponent(id), ["finding"]);
  const kind = finding.data ? kindName(finding.data.kind) : "Finding";
  const who = finding.data?.validator ? ` of validator ${finding.data.validator.index}` : "";
  return html`<${Page} title=${kind + who} crumb=${html`<a href="/">Findings</a>`}>
    <${Answer} of=${finding} what="this finding">${(data) => html`<${Body} finding=${data} />`}<//>
  <//>`;
}

function Body({ finding }) {
  const { status } = useHealth();
  const evidence = useJson(finding.evidence ? `/v1/findings/${finding.id}/evidence` : null);
  const groups = useJson(finding.validator ? "/v1/watch/groups" : null);
  const names = groupsOf(finding);
  const own = names.map((name) => groups.data?.groups.find((group) => group.name === name) ?? { name });
  const incident = useIncidentOf(finding);
  const { tone, text } = finding.severity === "critical" ? { tone: "critical", text: "A slashable offence" } : { tone: finding.severity, text: "" };
  return html`
    <section class=${"verdict " + tone} aria-label="In short">
      <div><h2>What happened?</h2><p class="answer">${findingStory(finding, evidence.data)}</p><p class="soft">${text}</p></div>
      <div><h2>Is it mine?</h2><${Mine} finding=${finding} groups=${groups} own=${own} status=${status} /></div>
      <div><h2>What now?</h2>${own.length && !groups.data && !groups.error ? html`<p>Loading.</p>` : html`<${Steps} of=${whatNow(finding, own, { all: groups.data?.groups, incident, status })} />`}</div>
    </section>
    ${finding.evidence && html`<${Answer} of=${evidence} what="the proof">${(proof) => finding.evidence.type === "proposer_slashing"
      ? html`<${DoubleProposal} finding=${finding} proof=${proof} />`
      : html`<${TwoVotes} finding=${finding} proof=${proof} />`}<//>`}
    <div class="split even">
      <${Section} title="About it"><${About} finding=${finding} incident=${incident} /><//>
      ${finding.evidence ? html`<${Section} title="Proof"><${Proof} finding=${finding} own=${own} isCompared=${Boolean(groups.data?.groups.length)} /><//>` : html`<${Section} title="Details"><${Details} of=${finding.details ?? {}} /><//>`}
    </div>`;
}

const groupsOf = (finding) => (finding.validator?.labels ?? []).filter((label) => label.startsWith("group=")).map((label) => label.slice(6));

function Mine({ finding, groups, own, status }) {
  if (!finding.validator) return html`<p>No single validator caused it.</p>`;
  const names = groupsOf(finding);
  const { index } = finding.validator;
  const none = groups.error?.status === 403 ? "Watched keys are not shown on this address." : groups.data && !groups.data.groups.length ? "Not known: no keys are configured here." : "Not of a group that is watched here.";
  const switches = own.filter((group) => group.kill_switch !== undefined).map((group) => `${group.name}: ${switchName(group, status)}`);
  return html`${names.length ? html`<p class="answer bad">Yes: ${names.join(", ")}</p>${switches.map((one) => html`<p key=${one}>${one}</p>`)}` : html`<p class="answer">${none}</p>`}
    <p>Validator <${ValidatorLink} index=${index} /> <${Hash} of=${finding.validator.pubkey} /></p>
    ${finding.validator.labels.length > 0 && html`<p>${finding.validator.labels.map((label) => html`<${LabelLink} key=${label} label=${label} /> `)}</p>`}`;
}

// The incident to which a finding belongs: one of contradictions that has it among its findings.
function useIncidentOf(finding) {
  const incidents = useIncidents();
  const hasOne = finding.evidence || finding.kind === "second_signer";
  // A message of a clock that ran ahead is about a later slot than those of its incident, and may
  // have been heard before anybody noticed the incident.
  const known = finding.second_seen ?? finding.first_seen;
  const mayHold = (one) => one.kind === "slashing_wave" && BigInt(one.first_slot) <= BigInt(finding.slot)
    && (BigInt(finding.slot) <= BigInt(one.last_slot) || !one.closed_at || known <= one.closed_at);
  const held = incidents.data?.incidents.filter(mayHold) ?? [];
  // The latest of those that began before it.
  const around = held.reduce((one, other) => (one && BigInt(one.first_slot) > BigInt(other.first_slot) ? one : other), null);
  const isAsked = hasOne && !finding.details?.incident && around && finding.validator;
  const members = useJson(isAsked ? `/v1/findings?incident=${around.id}&validator=${finding.validator.index}&limit=1000` : null);
  const named = finding.details?.incident;
  if (named) return incidents.data?.incidents.find((one) => one.id === named) ?? { id: named };
  return members.data?.findings.some((one) => one.id === finding.id) ? around : null;
}

function About({ finding, incident }) {
  const delay = finding.included ? Number(finding.included.slot) - Number(finding.slot) : null;
  return html`<${Facts} of=${[
    ["Kind", kindName(finding.kind)],
    ["Severity", html`<${Severity} of=${finding.severity} />`],
    finding.validator && ["Validator", html`<${ValidatorLink} index=${finding.validator.index} />`],
    ["Slot", html`<${SlotLink} slot=${finding.slot} />`],
    ["Epoch", html`<${EpochLink} epoch=${finding.epoch} />`],
    ["Fork", finding.fork],
    ["First message heard", html`<${Time} of=${finding.first_seen} precise /> UTC`],
    finding.second_seen && ["Second message heard", html`<${Time} of=${finding.second_seen} precise /> UTC, ${millis(between(finding.first_seen, finding.second_seen))} later`],
    ["Heard in", finding.sources.map(sourceName).join(", ")],
    ["Recorded", html`<${Time} of=${finding.recorded_at} precise /> UTC`],
    finding.evidence && ["Punishable", punishableWords(finding), finding.punishable === "yes" && !finding.included ? "critical" : ""],
    finding.evidence && ["Included in", finding.included ? html`slot <${SlotLink} slot=${finding.included.slot} />, block <${Hash} of=${finding.included.block_root} />` : "no block yet"],
    delay !== null && ["Inclusion delay", plural(delay, "slot")],
    ["Incident", incident ? html`<a href=${"/incidents/" + incident.id}>the incident around it</a>` : "none"],
    finding.details?.further_pairs && ["Further pairs, not listed", grouped(finding.details.further_pairs)],
    ["Id", html`<code class="whole">${finding.id}</code>`],
  ]} />`;
}

// The details of an anomaly, whatever its kind has.
export function Details({ of }) {
  const rows = Object.entries(of).filter(([, value]) => value !== null);
  if (!rows.length) return html`<p class="quiet">None.</p>`;
  return html`<${Facts} of=${rows.map(([name, value]) => [words(name), html`<${Value} name=${name} value=${value} />`])} />`;
}

function Value({ name, value }) {
  if (Array.isArray(value)) {
    if (!value.length) return "none";
    if (value.every((one) => typeof one !== "object")) {
      const shown = value.slice(0, 24);
      return html`${shown.map((one, n) => html`${n > 0 && ", "}${/examples|validators/.test(name) ? html`<${ValidatorLink} index=${one} />` : String(one)}`)}${value.length > 24 && ` and ${value.length - 24} more`}`;
    }
    return html`<ul class="plain">${value.slice(0, 12).map((one, n) => html`<li key=${n}><${Value} name=${name} value=${one} /></li>`)}</ul>${value.length > 12 && `and ${value.length - 12} more`}`;
  }
  if (value !== null && typeof value === "object") {
    return html`<span class="pairs">${Object.entries(value).map(([key, one]) => html`<span key=${key}><span class="soft">${words(key)}</span> <${Value} name=${key} value=${one} /></span> `)}</span>`;
  }
  if (name === "finding") return html`<a href=${"/findings/" + value}><${Hash} of=${value} /></a>`;
  if (name === "incident") return html`<a href=${"/incidents/" + value}><${Hash} of=${value} /></a>`;
  if (name === "validator" || name === "proposer") return html`<${ValidatorLink} index=${value} />`;
  if (/(^|_)slot$/.test(name)) return html`<${SlotLink} slot=${value} />`;
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "string" && /^0x[0-9a-f]{20,}$/.test(value)) return html`<${Hash} of=${value} />`;
  return words(String(value));
}

// `isCompared` is whether the key was compared with those of the reader.
function Proof({ finding, own, isCompared }) {
  const { status } = useHealth();
  const { evidence } = finding;
  const at = "/v1/evidence/";
  const pool = evidence.type === "proposer_slashing" ? "v1/beacon/pool/proposer_slashings" : "v2/beacon/pool/attester_slashings";
  const file = evidence.json;
  const submit = html`<${Command} label="Command that submits the proof" text=${`curl -X POST "$NODE/eth/${pool}" \\\n  -H 'Content-Type: application/json' \\\n  -H 'Eth-Consensus-Version: ${finding.fork}' \\\n  --data @${file}`} />
    <p class="note"><code>NODE</code> is the address of your beacon node.</p>`;
  return html`
    <p>Both messages with their signatures, as the pool of a beacon node accepts them. ${finding.included ? "The chain has it already." : finding.punishable === "yes" ? "No block has it yet." : ""}</p>
    <p class="buttons"><a class="button" href=${at + evidence.json} download=${evidence.json}>Proof as JSON</a> <a class="button" href=${at + evidence.ssz} download=${evidence.ssz}>Proof as SSZ</a></p>
    <h3>Check it</h3>
    <${Command} label="Command that checks the proof" text=${`slashwatch verify-proof ${file} --network ${dataDir(status)}`} />
    <p class="note">${status?.data_dir ? "Run it in the folder of the proof. The data directory has the network and the signers' public keys." : html`<code>DATA_DIR</code> is this watcher's data directory, which has the network and the signers' public keys; its path is not shown on this address.`}</p>
    ${own.length ? html`<details class="fold"><summary>Submit it to a beacon node: not for your own keys</summary>
      <p class="critical">The key is yours (${own.map((one) => one.name).join(", ")}). Who submits this has your own validator slashed.</p>${submit}
    </details>` : html`<h3>Submit it to a beacon node</h3>
      ${!isCompared && html`<p class="critical">It may be yours: submitting slashes it. No keys are configured here, so nobody has compared.</p>`}${submit}`}`;
}

// ---- Two votes

const FIELDS = [
  ["slot", "Slot", (data) => data.slot, (data) => html`<${SlotLink} slot=${data.slot} />`],
  ["index", "Index", (data) => data.index, (data) => data.index],
  ["head", "Head", (data) => data.beacon_block_root, (data) => html`<${Hash} of=${data.beacon_block_root} n=${12} />`],
  ["source", "Source", (data) => data.source, (data) => html`epoch ${grouped(data.source.epoch)} <${Hash} of=${data.source.root} n=${8} />`],
  ["target", "Target", (data) => data.target, (data) => html`epoch ${grouped(data.target.epoch)} <${Hash} of=${data.target.root} n=${8} />`],
];

// When this validator's vote was heard, from the list of its votes.
function heardOf(votes, data) {
  const isSame = (vote) => vote.slot === data.slot && vote.head === data.beacon_block_root && vote.source.epoch === data.source.epoch
    && vote.source.root === data.source.root && vote.target.epoch === data.target.epoch && vote.target.root === data.target.root;
  return votes?.find(isSame)?.heard ?? null;
}

function useVotes(finding, data) {
  const before = BigInt(data.target.epoch) + 1n;
  return useJson(finding.validator ? `/v1/validators/${finding.validator.index}?limit=16&before_epoch=${before}` : null);
}

function TwoVotes({ finding, proof }) {
  const votes = [proof.attestation_1, proof.attestation_2];
  const answers = [useVotes(finding, votes[0].data), useVotes(finding, votes[1].data)];
  let heard = votes.map((vote, n) => heardOf(answers[n].data?.votes, vote.data));
  const isOrdered = Boolean(heard[0] && heard[1]);
  const isSurround = finding.kind === "surround_vote";
  // Of a surround, the proof has the surrounding vote first.
  const order = !isSurround && isOrdered && Date.parse(heard[1].at) < Date.parse(heard[0].at) ? [1, 0] : [0, 1];
  const [one, other] = order.map((n) => votes[n].data);
  heard = order.map((n) => heard[n]);
  if (isOrdered) {
    // The list of votes has the time of the earliest signature over the same data. The finding has
    // the time of this validator's own.
    const isFirst = (n) => Date.parse(heard[n].at) <= Date.parse(heard[1 - n].at) && (n === 0 || heard[0].at !== heard[1].at);
    heard = heard.map((row, n) => {
      const at = isFirst(n) ? finding.first_seen : finding.second_seen;
      return { ...row, at, after_slot_start_ms: row.after_slot_start_ms + between(row.at, at) };
    });
  }
  const names = isSurround ? ["Surrounding vote", "Surrounded vote"] : isOrdered ? ["First vote", "Second vote"] : ["One vote", "The other vote"];
  const differs = voteDifferences(one, other);
  const spans = [one, other].map((data, n) => ({ name: `${names[n]}: ${data.source.epoch} to ${data.target.epoch}`, from: Number(data.source.epoch), to: Number(data.target.epoch), tone: n ? "b" : "a" }));
  const signers = (n) => plural(votes[order[n]].attesting_indices.length, "signer");
  return html`<${Section} title="The two votes" note=${`They differ in ${differs.join(", ")}.`}>
    <div class="scroll" tabindex="0" role="region" aria-label="The two votes side by side"><table class="compare">
      <thead><tr><th scope="col">Field</th><th scope="col"><span class="key a"></span>${names[0]}</th><th scope="col"><span class="key b"></span>${names[1]}</th></tr></thead>
      <tbody>
        ${FIELDS.map(([field, name, , show]) => html`<tr key=${field} class=${differs.includes(field) ? "differs" : ""}>
          <th scope="row">${name}${differs.includes(field) && html` <span class="mark">differs</span>`}</th><td>${show(one)}</td><td>${show(other)}</td>
        </tr>`)}
        <tr><th scope="row">Heard</th>${heard.map((row, n) => html`<td key=${n}><${Heard} of=${row} /></td>`)}</tr>
        <tr><th scope="row">Signed with</th><td>${signers(0)} in one signature</td><td>${signers(1)} in one signature</td></tr>
      </tbody>
    </table></div>
    ${!isOrdered && html`<p class="note">The first message came at <${Time} of=${finding.first_seen} precise /> UTC, the second at <${Time} of=${finding.second_seen} precise /> UTC, in ${finding.sources.map(sourceName).join(", ")}; which of the two is which is not kept.</p>`}
    <${SpanChart} label=${`From source to target: ${spans.map((span) => span.name).join("; ")}`} spans=${spans} />
  <//>`;
}

const sinceStart = (ms) => (ms < 0 ? `${millis(-ms)} before its slot began` : `${millis(ms)} after the slot's start`);

function Heard({ of }) {
  if (!of) return "time not kept";
  return html`<${Time} of=${of.at} precise /> UTC, ${sinceStart(of.after_slot_start_ms)}, in ${sourceName(of.source)}`;
}

// ---- Two blocks

const HEADER = [["slot", "Slot"], ["proposer_index", "Proposer"], ["parent_root", "Parent"], ["state_root", "State"], ["body_root", "Body"]];

function useRoots(headers) {
  const [roots, setRoots] = useState([null, null]);
  useEffect(() => {
    Promise.all(headers.map(headerRoot)).then(setRoots, () => {});
  }, [headers.map((header) => header.body_root).join()]);
  return roots;
}

function DoubleProposal({ finding, proof }) {
  const headers = [proof.signed_header_1.message, proof.signed_header_2.message];
  const roots = useRoots(headers);
  const slot = useWhileRecent("/v1/slots/" + finding.slot);
  const block = (n) => slot.data?.blocks.find((one) => one.root === roots[n]) ?? null;
  const votes = (n) => slot.data?.votes.filter((vote) => vote.head === roots[n]) ?? [];
  const order = block(0) && block(1) && Date.parse(block(1).heard.at) < Date.parse(block(0).heard.at) ? [1, 0] : [0, 1];
  const names = block(0) && block(1) ? ["First block", "Second block"] : ["One block", "The other block"];
  const same = (field) => headers[0][field] === headers[1][field];
  return html`<${Section} title="The two blocks" note=${`They differ in ${HEADER.filter(([field]) => !same(field)).map(([, name]) => name.toLowerCase()).join(", ")}.`}>
    <div class="scroll" tabindex="0" role="region" aria-label="The two blocks side by side"><table class="compare">
      <thead><tr><th scope="col">Field</th>${order.map((n, place) => html`<th scope="col" key=${n}><span class=${"key " + "ab"[place]}></span>${names[place]}</th>`)}</tr></thead>
      <tbody>
        <tr><th scope="row">Root</th>${order.map((n) => html`<td key=${n}>${roots[n] ? html`<${Hash} of=${roots[n]} n=${12} />` : "not computed here"}</td>`)}</tr>
        ${HEADER.map(([field, name]) => html`<tr key=${field} class=${same(field) ? "" : "differs"}><th scope="row">${name}${!same(field) && html` <span class="mark">differs</span>`}</th>
          ${order.map((n) => html`<td key=${n}>${field === "slot" ? html`<${SlotLink} slot=${headers[n].slot} />` : field === "proposer_index" ? html`<${ValidatorLink} index=${headers[n].proposer_index} />` : html`<${Hash} of=${headers[n][field]} n=${12} />`}</td>`)}</tr>`)}
        <tr><th scope="row">Heard</th>${order.map((n) => html`<td key=${n}><${Heard} of=${block(n)?.heard} /></td>`)}</tr>
        <tr><th scope="row">Votes for it in its slot</th>${order.map((n) => html`<td key=${n}>${slot.data ? grouped(votes(n).reduce((sum, vote) => sum + vote.votes, 0)) : "not yet known"}</td>`)}</tr>
      </tbody>
    </table></div>
    <${Answer} of=${slot} what=${`slot ${finding.slot}`}>${(data) => html`
      <${SlotArrivals} slot=${data} only=${roots.filter(Boolean)} />
      <${Boost} slot=${data} />
      <div class="split even">${order.map((n, place) => html`<div key=${n}><h3><span class=${"key " + "ab"[place]}></span>Who voted for the ${names[place].toLowerCase()}</h3>
        <${Tally} label=${`Votes by client for the ${names[place].toLowerCase()}`} rows=${merged(votes(n).flatMap((vote) => vote.by_client), "client")} field="client" of=${data.voters} />
      </div>`)}</div>`}<//>
  <//>`;
}

const BOOST = {
  withheld: "withheld",
  applied: "not withheld",
  no_boost: "there is none",
  not_known: "not known",
};

// What the double proposal did to the proposer boost of the next slot's block.
export function Boost({ slot }) {
  if (!slot.is_double_proposal) return null;
  const next = BigInt(slot.slot) + 1n;
  if (!slot.boost) return html`<p class="note">Before Gloas a double proposal does not change the proposer boost.</p>`;
  return html`<p><strong>Proposer boost of the block of slot <${SlotLink} slot=${String(next)} />: ${BOOST[slot.boost.state] ?? words(slot.boost.state)}</strong>, because ${slot.boost.reason}.${slot.boost.block && html` It is about <${Hash} of=${slot.boost.block} />.`}</p>
    <p class="note">From Gloas on, the fork choice gives no boost to a block on a weak parent (fewer than a fifth of its slot's votes) whose proposer published another block in time. Each node judges by its own arrivals; these are ours.</p>`;
}

function merged(rows, field) {
  const sums = new Map();
  for (const row of rows) sums.set(row[field], (sums.get(row[field]) ?? 0) + row.votes);
  return [...sums].map(([name, votes]) => ({ [field]: name, votes })).sort((a, b) => b.votes - a.votes);
}

// The blocks of a slot against its deadlines.
export function SlotArrivals({ slot, only }) {
  const blocks = slot.blocks.filter((block) => !only?.length || only.includes(block.root));
  if (!blocks.length) return html`<p class="quiet">No block of this slot was heard.</p>`;
  const names = { attestation: "votes are due", aggregate: "aggregates are due", payload: "payload is due" };
  const deadlines = Object.entries(slot.deadlines_ms).filter(([, at]) => at !== null).map(([name, at]) => [names[name] ?? words(name), at]);
  const events = blocks.map((block, n) => ({
    name: `${block.root.slice(0, 10)}… at ${millis(block.heard.after_slot_start_ms)}${block.client ? ", " + block.client : ""}`,
    brief: `${block.root.slice(0, 6)}… ${millis(block.heard.after_slot_start_ms)}`,
    at: block.heard.after_slot_start_ms,
    tone: slot.is_double_proposal ? (n % 2 ? "b" : "a") : block.heard.after_slot_start_ms > (slot.deadlines_ms.attestation ?? Infinity) ? "late" : "a",
  }));
  return html`<${SlotChart} label=${`Arrival of the blocks of slot ${slot.slot}: ${events.map((event) => event.name).join("; ")}`} events=${events} deadlines=${deadlines} slotMs=${slot.slot_ms} />`;
}

export { merged };
