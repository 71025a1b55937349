// One validator: what was heard of it, where it was silent, and where it contradicted itself.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { HistoryStrip } from "../lib/charts.js";
import { getJson, useHealth, useJson } from "../lib/data.js";
import { FindingsList, FindingsTable } from "../lib/findings.js";
import { Answer, EpochLink, Facts, Hash, LabelLink, Page, Pill, Section, SlotLink, Steps, Table, Time } from "../lib/parts.js";
import { eth, grouped, millis, plural, words } from "../lib/text.js";
import { causeOfKind, nowIfMine, sourceName, switchName } from "../lib/words.js";

const PER_PAGE = 64;

export function Validator({ id }) {
  const validator = useJson(`/v1/validators/${encodeURIComponent(id)}?limit=${PER_PAGE}`, ["poll"]);
  const index = validator.data?.index ?? id;
  const isMissing = validator.error?.isMissingRoute && /^\d+$/.test(id);
  return html`<${Page} title=${/^\d+$/.test(index) ? "Validator " + index : "Validator"}>
    <${Answer} of=${validator} what=${`validator ${id.length > 20 ? id.slice(0, 12) + "…" : id}`}>${(data) => html`<${Body} validator=${data} />`}<//>
    ${isMissing && html`<${Section} title="Findings"><${FindingsList} filter=${"&validator=" + id} empty="No finding is about this validator." /><//>`}
  <//>`;
}

// Older votes, a page at a time.
function useHistory(validator) {
  const [older, setOlder] = useState({ votes: [], gaps: [], next: undefined, error: null });
  const next = older.next === undefined ? validator.next : older.next;
  useEffect(() => setOlder({ votes: [], gaps: [], next: undefined, error: null }), [validator.index]);
  const more = () => getJson(`/v1/validators/${validator.index}?limit=${PER_PAGE}&before_epoch=${next}`).then(
    (page) => setOlder((old) => ({ votes: old.votes.concat(page.votes), gaps: old.gaps.concat(page.gaps), next: page.next, error: null })),
    (error) => setOlder((old) => ({ ...old, error })),
  );
  // The first page is live, so the pages may overlap.
  const votes = [...new Map(validator.votes.concat(older.votes).map((vote) => [vote.data_root, vote])).values()];
  return { votes, gaps: validator.gaps.concat(older.gaps), next, more, error: older.error };
}

function Body({ validator }) {
  const history = useHistory(validator);
  const { registry, watched } = validator;
  const { status } = useHealth();
  const groups = useJson("/v1/watch/groups", ["poll"]);
  const all = groups.data?.groups;
  const own = validator.groups.map((name) => all?.find((group) => group.name === name) ?? { name });
  const offences = validator.findings.filter((finding) => finding.evidence);
  const tone = offences.some((finding) => finding.severity === "critical") ? "critical" : offences.length ? "warning" : "none";
  const epochs = history.votes.map((vote) => Number(vote.target.epoch));
  const hasDoubts = history.votes.some((vote) => vote.contradicts);
  return html`
    <section class=${"verdict " + tone} aria-label="In short">
      <div><h2>What happened?</h2><p class="answer">${offences.length ? `It contradicted itself: ${plural(offences.length, "proven offence")}${validator.has_more_findings ? " or more" : ""}.` : validator.has_more_findings ? "No contradiction among its newest findings." : "No contradiction is known."}</p>
        ${registry?.slashed && html`<p class="critical">The chain has slashed it.</p>`}</div>
      <div><h2>Is it mine?</h2><p class=${"answer " + (validator.groups.length && offences.length ? "bad" : "")}>${validator.groups.length ? `Yes: ${validator.groups.join(", ")}` : groups.error?.status === 403 ? "Watched keys are not shown on this address." : groups.data && !groups.data.groups.length ? "Not known: no keys are configured here." : "Not of a group that is watched here."}</p>
        ${own.filter((group) => group.kill_switch !== undefined).map((group) => html`<p key=${group.name}>${group.name}: ${switchName(group, status)}</p>`)}
        ${validator.labels.length > 0 && html`<p>${validator.labels.map((label) => html`<${LabelLink} key=${label} label=${label} /> `)}</p>`}</div>
      <div><h2>What now?</h2><${Now} offences=${offences} own=${own} groups=${groups} status=${status} /></div>
    </section>
    <${Section} title="History" note="Each cell is a target epoch, the newest on the right. Red: contradicts another vote. Hollow: nothing was heard.">
      ${epochs.length ? html`<${HistoryStrip} label=${`Votes by target epoch: ${plural(history.votes.length, "vote")}${history.gaps.length ? `, ${plural(history.gaps.length, "gap")}` : ""}${hasDoubts ? ", with contradictions" : ""}`} votes=${history.votes} gaps=${history.gaps} />` : html`<p class="quiet">No vote is kept.</p>`}
      ${history.gaps.length > 0 && html`<details><summary>${plural(history.gaps.length, "gap")} without a vote</summary><ul class="plain">${history.gaps.map((gap) => html`<li key=${gap.first_epoch}>epochs <${EpochLink} epoch=${gap.first_epoch} /> to <${EpochLink} epoch=${gap.last_epoch} /></li>`)}</ul></details>`}
    <//>
    <div class="split">
      <div>
        <${Section} title="Contradictions and findings"><${FindingsTable} findings=${validator.findings} label="Findings of this validator" empty="No finding is about this validator." />
          ${validator.has_more_findings && html`<p><a href=${"/?validator=" + validator.index}>All findings of validator ${validator.index}</a></p>`}<//>
        <${Section} title="Votes"><${Votes} history=${history} /><//>
      </div>
      <div>
        <${Section} title="About it"><${Facts} of=${[
          ["Index", validator.index],
          ["Public key", validator.pubkey ? html`<code class="whole">${validator.pubkey}</code>` : "not known"],
          ["Client", validator.client ?? "not known"],
          registry && ["State on chain", html`<span class=${registry.slashed ? "critical" : ""}>${words(registry.state)}</span>`],
          registry && ["Effective balance", eth(registry.effective_balance)],
          registry && registry.activation_epoch !== null && ["Active since epoch", html`<${EpochLink} epoch=${registry.activation_epoch} />`],
          registry?.exit_epoch && ["Leaves in epoch", html`<${EpochLink} epoch=${registry.exit_epoch} />`],
          registry?.withdrawable_epoch && ["Withdrawable in epoch", html`<${EpochLink} epoch=${registry.withdrawable_epoch} />`],
          ["First heard, target epoch", validator.first_epoch === null ? "never" : html`<${EpochLink} epoch=${validator.first_epoch} />`],
          ["Last heard, target epoch", validator.last_epoch === null ? "never" : html`<${EpochLink} epoch=${validator.last_epoch} />`],
          validator.last_heard && ["Last heard at", html`<${Time} of=${validator.last_heard.at} precise /> UTC`],
          watched && ["Missed in a row", grouped(watched.missed_in_a_row), watched.missed_in_a_row ? "warning" : ""],
          watched && ["Duty", watched.duty],
        ]} /><//>
        <${Section} title="Proposals"><${Table} label="Proposals" rows=${validator.proposals} keyOf=${(row) => row.root} empty="No block of it among those of the last 1024 slots." columns=${[
          ["Slot", (row) => html`<${SlotLink} slot=${row.slot} />`],
          ["Root", (row) => html`<${Hash} of=${row.root} />`],
          ["Heard", (row) => (row.heard ? `${millis(row.heard.after_slot_start_ms)} after the start` : "–")],
        ]} /><//>
      </div>
    </div>`;
}

function Now({ offences, own, groups, status }) {
  // The commands and the switch's state come with the groups.
  if (own.length && !groups.data && !groups.error) return html`<p>Loading.</p>`;
  const all = groups.data?.groups;
  if (offences.length && own.length) return html`<${Steps} of=${nowIfMine(own, { all, cause: causeOfKind(offences[0].kind), status })} />`;
  if (offences.length) return html`<p>If it is yours: stop every machine that holds this key or its sister keys, then look at the findings below.</p>`;
  const fired = own.filter((group) => group.kill_switch && group.kill_switch.state !== "ready");
  if (!fired.length) return html`<p>Nothing.</p>`;
  return html`<p>It has no offence of its own, but <a href="/watch">the kill switch of ${fired.map((group) => group.name).join(", ")}</a> has fired.</p>`;
}

function Votes({ history }) {
  return html`<${Table} label="Votes" rows=${history.votes} keyOf=${(vote) => vote.data_root} empty="No vote is kept." rowClass=${(vote) => (vote.contradicts ? "contradicts" : "")} columns=${[
      ["Slot", (vote) => html`<${SlotLink} slot=${vote.slot} />`],
      ["Source to target", (vote) => html`<${EpochLink} epoch=${vote.source.epoch} /> → <${EpochLink} epoch=${vote.target.epoch} /> ${vote.contradicts && html`<${Pill} tone="bad">contradicts<//>`}`],
      ["Head", (vote) => html`<${Hash} of=${vote.head} n=${6} />`],
      ["Heard", (vote) => (vote.heard ? html`<${Time} of=${vote.heard.at} />` : "–"), "extra"],
      ["After slot start", (vote) => (vote.heard ? millis(vote.heard.after_slot_start_ms) : "–")],
      ["In", (vote) => (vote.heard ? sourceName(vote.heard.source) : "–"), "extra"],
    ]} />
    ${history.error && html`<p class="stale">Older votes could not be loaded: ${history.error.message}.</p>`}
    ${history.next !== null && html`<p class="pager"><button type="button" onClick=${history.more}>Older votes</button></p>`}`;
}
