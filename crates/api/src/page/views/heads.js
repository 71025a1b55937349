// The branches of the chain as a drawing, who votes for which, and where the peers stand.
import { html } from "../vendor/preact-htm.js";
import { BlockTree } from "../lib/tree.js";
import { useHealth, useJson } from "../lib/data.js";
import { useIncidents } from "./incidents.js";
import { Answer, EpochLink, Facts, Hash, Page, Pill, Section, SlotLink, Table, Tally } from "../lib/parts.js";
import { eth, grouped, percent, plural } from "../lib/text.js";
import { isOpen } from "../lib/words.js";

export function Heads() {
  const heads = useJson("/v1/heads", ["poll"]);
  const incidents = useIncidents();
  return html`<${Page} title="Heads" lead="The branches that validators vote for, and their weight.">
    <${Answer} of=${heads} what="heads">${(data) => html`<${Body} heads=${data} incidents=${incidents.data?.incidents ?? []} />`}<//>
  <//>`;
}

// Votes for blocks that are not here may be for another branch.
function isOneChain(heads, status) {
  const unknown = heads.unknown_heads.reduce((sum, row) => sum + row.votes, 0);
  const known = heads.branches.reduce((sum, branch) => sum + branch.votes.votes, 0);
  return Boolean(status?.ready || status?.recording) && known > 0 && unknown * 10 < known;
}

function Body({ heads, incidents }) {
  const { status } = useHealth();
  const split = incidents.filter((one) => one.kind === "checkpoint_split" && (isOpen(one) || status?.recording)).at(-1);
  return html`
    <${Facts} columns=${true} of=${[
      ["State", heads.is_split ? html`<${Pill} tone="bad">split<//>` : isOneChain(heads, status) ? html`<${Pill} tone="good">one chain<//>` : html`<${Pill}>not yet known<//>`],
      ["Head", html`slot <${SlotLink} slot=${heads.head.slot} /> <${Hash} of=${heads.head.root} />`],
      ["Justified epoch", heads.justified ? html`<${EpochLink} epoch=${heads.justified.epoch} />` : "not yet known"],
      ["Finalized epoch", heads.finalized ? html`<${EpochLink} epoch=${heads.finalized.epoch} />` : "not yet known"],
      ["Cannot change sides without a surround", split ? html`<a href=${"/incidents/" + split.id}>${plural(split.details.would_surround_by_joining_the_other_side ?? 0, "validator")}</a>` : "nobody, as far as is known"],
    ]} />
    <${Section} title="Branches" note=${`Blocks since slot ${grouped(heads.since_slot)}. A line's width is the weight of what is built on it. Each block leads to its slot; a dashed one was made by somebody whose turn it was not.`}>
      ${heads.blocks.length ? html`<${BlockTree} heads=${heads} />` : html`<p class="quiet">No blocks are in memory.</p>`}
    <//>
    <div class="cards">${heads.branches.map((branch, n) => html`<article key=${branch.end} class="card"><h3>${n === 0 ? "Leading branch" : `Branch ${n + 1}`} <${Hash} of=${branch.end} n=${6} /></h3>
      <p>Ends in slot <${SlotLink} slot=${branch.slot} />${branch.from_slot !== null ? html`, leaves the leading one after slot <${SlotLink} slot=${branch.from_slot} />` : ""}; ${plural(branch.blocks, "block")}.</p>
      <p><strong>${percent(branch.weight_share)}</strong> of the weight, ${plural(branch.votes.votes, "vote")}${branch.votes.stake_gwei ? `, ${eth(branch.votes.stake_gwei)}` : ""}.</p>
      <h4>By client</h4><${Tally} label=${"Votes by client for branch " + (n + 1)} rows=${branch.votes.by_client} field="client" of=${branch.votes.votes} />
      ${branch.votes.by_label.length > 0 && html`<h4>By label</h4><${Tally} label=${"Votes by label for branch " + (n + 1)} rows=${branch.votes.by_label} field="label" of=${branch.votes.votes} />`}
    </article>`)}</div>
    <div class="split even">
      <${Section} title="Where the peers stand" note="By their last Status."><${Table} label="Peers by client and head" rows=${heads.peers} empty="No peer has told its head." columns=${[
        ["Client", (row) => row.client], ["Head slot", (row) => grouped(row.head_slot)], ["Head", (row) => html`<${Hash} of=${row.head_root} />`], ["Peers", (row) => grouped(row.peers)],
      ]} /><//>
      <${Section} title="Heads without a block" note="Voted for, but the block is not here."><${Table} label="Heads without a block" rows=${heads.unknown_heads} keyOf=${(row) => row.root} empty="None." columns=${[
        ["Root", (row) => html`<${Hash} of=${row.root} />`], ["Votes", (row) => grouped(row.votes)],
      ]} /><//>
    </div>
    <details><summary>Blocks as a table</summary><${Table} label="Blocks" rows=${[...heads.blocks].reverse()} keyOf=${(block) => block.root} columns=${[
      ["Slot", (block) => html`<${SlotLink} slot=${block.slot} />`],
      ["Root", (block) => html`<${Hash} of=${block.root} />`],
      ["Parent", (block) => html`<${Hash} of=${block.parent} />`],
      ["Votes", (block) => grouped(block.votes.votes)],
      ["Weight", (block) => plural(block.weight.votes, "vote")],
      ["Peers", (block) => grouped(block.peers)],
    ]} /></details>`;
}
