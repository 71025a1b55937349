// One epoch: its slots, one by one.
import { html } from "../vendor/preact-htm.js";
import { useWhileRecent } from "../lib/data.js";
import { FindingsList } from "../lib/findings.js";
import { Answer, Facts, Hash, Page, Section, SlotLink, Table, Time } from "../lib/parts.js";
import { grouped, percent } from "../lib/text.js";
import { kindName } from "../lib/words.js";
import { Participation } from "./now.js";

export function Epoch({ id }) {
  const epoch = useWhileRecent("/v1/epochs/" + encodeURIComponent(id));
  const isNumber = /^\d{1,19}$/.test(id);
  const beside = (by) => String(BigInt(id) + by);
  return html`<${Page} title=${"Epoch " + (isNumber ? grouped(id) : id)} crumb=${isNumber && html`${id !== "0" && html`<a href=${"/epochs/" + beside(-1n)}>← epoch ${grouped(beside(-1n))}</a>`} <a href=${"/epochs/" + beside(1n)}>epoch ${grouped(beside(1n))} →</a>`}>
    <${Answer} of=${epoch} what=${"epoch " + id}>${(data) => html`<${Body} epoch=${data} />`}<//>
  <//>`;
}

function Body({ epoch }) {
  const kinds = Object.entries(epoch.findings.by_kind);
  const missing = epoch.slots.filter((row) => !row.blocks).length;
  return html`
    <${Facts} columns=${true} of=${[
      ["Slots", html`<${SlotLink} slot=${epoch.first_slot} /> to <${SlotLink} slot=${epoch.last_slot} />`],
      ["Starts", html`<${Time} of=${epoch.start} /> UTC`],
      ["State", epoch.is_over ? "over" : "not over yet"],
      ["Participation", percent(epoch.participation)],
      ["Slots without a block", grouped(missing), missing ? "warning" : ""],
      ["Findings", kinds.length ? kinds.map(([kind, n]) => `${kindName(kind).toLowerCase()} ${grouped(n)}${epoch.findings.is_partial ? "+" : ""}`).join(", ") : "none", kinds.length ? "critical" : ""],
      ["Justified epoch, now", epoch.justified ? grouped(epoch.justified.epoch) : "not known"],
      ["Finalized epoch, now", epoch.finalized ? grouped(epoch.finalized.epoch) : "not known"],
    ]} />
    <${Section} title="Participation"><${Participation} rows=${epoch.slots} /><//>
    <${Section} title="Slots"><${Table} label="Slots of this epoch" rows=${epoch.slots} keyOf=${(row) => row.slot} columns=${[
      ["Slot", (row) => html`<${SlotLink} slot=${row.slot} />`],
      ["Blocks", (row) => html`<span class=${row.blocks === 1 ? "" : row.blocks ? "critical" : "warning"}>${row.blocks}</span>`],
      ["Voted", (row) => (row.participation === null ? grouped(row.voters) : percent(row.participation))],
      ["Leading head", (row) => (row.leading_head ? html`<${Hash} of=${row.leading_head} n=${6} />` : "–")],
      ["Its votes", (row) => grouped(row.leading_votes), "extra"],
      ["Heads", (row) => row.heads, "extra"],
      ["Findings", (row) => html`<span class=${row.findings !== 0 ? "critical" : ""}>${row.findings ?? "too many to count"}</span>`],
    ]} /><//>
    <${Section} title="Findings of this epoch"><${FindingsList} filter=${`&since_slot=${epoch.first_slot}&until_slot=${epoch.last_slot}`} empty="No finding is of this epoch." /><//>`;
}
