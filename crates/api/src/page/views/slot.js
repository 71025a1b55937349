// One slot: which blocks came and when, and who voted for what.
import { html } from "../vendor/preact-htm.js";
import { useWhileRecent } from "../lib/data.js";
import { FindingsList } from "../lib/findings.js";
import { Answer, EpochLink, Facts, Hash, Page, Pill, Section, Table, Tally, Time, ValidatorLink } from "../lib/parts.js";
import { grouped, millis, percent, plural } from "../lib/text.js";
import { sourceName } from "../lib/words.js";
import { Boost, SlotArrivals } from "./finding.js";

export function Slot({ id }) {
  const slot = useWhileRecent("/v1/slots/" + encodeURIComponent(id));
  const isNumber = /^\d{1,19}$/.test(id);
  const beside = (by) => String(BigInt(id) + by);
  return html`<${Page} title=${"Slot " + (isNumber ? grouped(id) : id)} crumb=${isNumber && html`${id !== "0" && html`<a href=${"/slots/" + beside(-1n)}>← slot ${grouped(beside(-1n))}</a>`} <a href=${"/slots/" + beside(1n)}>slot ${grouped(beside(1n))} →</a>`}>
    <${Answer} of=${slot} what=${"slot " + id}>${(data) => html`<${Body} slot=${data} />`}<//>
    ${isNumber && html`<${Section} title="Findings of this slot"><${FindingsList} filter=${`&since_slot=${id}&until_slot=${id}`} empty="No finding is of this slot." /><//>`}
  <//>`;
}

function Body({ slot }) {
  return html`
    <${Facts} columns=${true} of=${[
      ["Epoch", html`<${EpochLink} epoch=${slot.epoch} />`],
      ["Starts", html`<${Time} of=${slot.start} /> UTC`],
      ["State", slot.is_over ? "over" : "not over yet"],
      ["Blocks", slot.is_double_proposal ? html`${slot.blocks.length} <${Pill} tone="bad">double proposal<//>` : grouped(slot.blocks.length), slot.blocks.length ? "" : "warning"],
      ["Voters", grouped(slot.voters) + (slot.seats === null ? "" : ` of ${grouped(slot.seats)}`)],
      ["Participation", percent(slot.participation)],
      slot.voters_in_blocks !== null && ["Voters in blocks", grouped(slot.voters_in_blocks)],
    ]} />
    <${Section} title="Blocks against the deadlines">
      <${SlotArrivals} slot=${slot} />
      ${slot.blocks.length > 0 && html`<${Table} label="Blocks" rows=${slot.blocks} keyOf=${(block) => block.root} columns=${[
        ["Root", (block) => html`<${Hash} of=${block.root} />`],
        ["Proposer", (block) => html`<${ValidatorLink} index=${block.proposer} />`],
        ["Client", (block) => block.client ?? "not known"],
        ["After slot start", (block) => html`<span class=${block.heard.after_slot_start_ms > slot.deadlines_ms.attestation ? "warning" : ""}>${millis(block.heard.after_slot_start_ms)}</span>`],
        ["Heard", (block) => html`<${Time} of=${block.heard.at} precise />`, "extra"],
        ["In", (block) => sourceName(block.heard.source), "extra"],
        ["Parent", (block) => html`<${Hash} of=${block.parent} />`, "extra"],
        ["Attestations", (block) => grouped(block.attestations), "extra"],
        ["Voted for or built on", (block) => (block.is_backed === null ? "not known" : block.is_backed ? "yes" : "no"), "extra"],
      ]} />`}
      <${Boost} slot=${slot} />
    <//>
    <div class="split">
      <${Section} title="What the votes say">
        <${Table} label="Votes" rows=${slot.votes} keyOf=${(vote) => vote.head + vote.source.root + vote.target.root} empty="No vote of this slot was heard." columns=${[
          ["Head", (vote) => html`<${Hash} of=${vote.head} />`],
          ["Votes", (vote) => grouped(vote.votes)],
          ["Share", (vote) => percent(slot.voters ? vote.votes / slot.voters : null)],
          ["Source to target", (vote) => html`<${EpochLink} epoch=${vote.source.epoch} /> → <${EpochLink} epoch=${vote.target.epoch} />`],
          ["Head's slot", (vote) => (vote.head_slot === null ? "not known" : grouped(vote.head_slot)), "extra"],
          ["Clients", (vote) => vote.by_client.slice(0, 4).map((row) => `${row.client} ${grouped(row.votes)}`).join(", ") || "not known", "extra text"],
          ["Labels", (vote) => vote.by_label.slice(0, 3).map((row) => `${row.label} ${grouped(row.votes)}`).join(", ") || "–", "extra"],
        ]} />
        ${slot.votes.some((vote) => vote.labels_partial) && html`<p class="note">Some labelled voters are missing under Labels: there are too many combinations of labels, or the lists have changed since.</p>`}
        ${slot.further_voters > 0 && html`<p class="note">${plural(slot.further_voters, "more voter")} voted for something else.</p>`}
      <//>
      <${Section} title="Voters by client"><${Tally} label="Voters by client" rows=${slot.by_client} field="client" of=${slot.voters} /><//>
    </div>
    ${slot.source === "index" && html`<p class="note">This slot is not in memory any more, so clients and seats are not known.</p>`}`;
}
