// All proofs: those that a block has included, and those that none has, which no public list shows.
import { html, useState } from "../vendor/preact-htm.js";
import { useJson } from "../lib/data.js";
import { Answer, FindingLink, Page, Pill, Section, SlotLink, Table, Time, ValidatorLink } from "../lib/parts.js";
import { replace } from "../lib/search.js";
import { grouped, plural } from "../lib/text.js";
import { kindName } from "../lib/words.js";

const STATES = { included: ["good", "included"], unpublished: ["bad", "unpublished"], expired: ["none", "expired"], slashed_by_another: ["none", "slashed by another proof"] };
const CHOICES = [["", "All"], ["true", "Included in a block"], ["false", "Unpublished or expired"]];
const SHOWN = 3;

export function Slashings({ query }) {
  const wanted = new URLSearchParams(query).get("included") ?? "";
  const [cursors, setCursors] = useState([]);
  const cursor = cursors.at(-1);
  const address = `/v1/slashings?limit=50${wanted ? "&included=" + wanted : ""}${cursor ? "&cursor=" + cursor : ""}`;
  const slashings = useJson(address, cursor ? [] : ["finding", "poll"], true);
  const choose = (event) => {
    setCursors([]);
    replace(event.currentTarget.value ? "/slashings?included=" + event.currentTarget.value : "/slashings");
  };
  return html`<${Page} title="Slashings" lead=${html`Every proof, the newest first. <em>Unpublished</em>: on no chain that is known here, and still punishable. <a href="/v1/slashings.rss">RSS</a> · <a href="/v1/slashings">JSON</a>`}>
    <${Section} title="Proofs">
      <div class="filters"><label>Show <select onChange=${choose}>${CHOICES.map(([value, name]) => html`<option key=${value} value=${value} selected=${wanted === value}>${name}</option>`)}</select></label></div>
      <${Answer} of=${slashings} what="slashings">${(page) => html`<${Table} label="Proofs" rows=${page.slashings} keyOf=${(row) => row.evidence + row.state}
        rowClass=${(row) => (row.state === "unpublished" ? "unpublished" : "")} empty=${wanted ? "None of this kind." : "No slashing is known."} columns=${[
          ["Proven", (row) => html`<${Time} of=${row.proven_at} />`],
          ["Validators", (row) => html`${row.validators.slice(0, SHOWN).map((index, n) => html`${n > 0 && ", "}<${ValidatorLink} key=${index} index=${index} />`)}${row.n_validators > SHOWN && ` and ${grouped(row.n_validators - Math.min(SHOWN, row.validators.length))} more`}`],
          ["State", (row) => html`<${Pill} tone=${(STATES[row.state] ?? ["none"])[0]}>${(STATES[row.state] ?? ["", row.state])[1]}<//>`],
          ["What", (row) => html`<${FindingLink} id=${row.findings[0]}>${row.kinds.map(kindName).join(", ")}<//>`],
          ["Slot", (row) => html`<${SlotLink} slot=${row.slot} />`],
          ["Delay", (row) => delay(row)],
          ["Included in", (row) => (row.included ? html`<${SlotLink} slot=${row.included.slot} />` : "–"), "extra"],
          ["Labels", (row) => row.labels.join(", ") || "–", "extra"],
          ["Heard in", (row) => row.heard_in.join(", "), "extra"],
          ["Proof", (row) => html`<a href=${`/v1/evidence/${row.evidence}.json`} download=${row.evidence + ".json"} aria-label=${"Proof of slot " + row.slot + " as JSON"}>JSON</a> <a href=${`/v1/evidence/${row.evidence}.ssz`} download=${row.evidence + ".ssz"} aria-label=${"Proof of slot " + row.slot + " as SSZ"}>SSZ</a>`, "extra"],
        ]} />
        ${(cursors.length > 0 || page.next !== null) && html`<p class="pager">
          <button type="button" disabled=${!cursors.length} onClick=${() => setCursors(cursors.slice(0, -1))}>Newer</button>
          <span role="status">Page ${cursors.length + 1}</span>
          <button type="button" disabled=${page.next === null} onClick=${() => setCursors([...cursors, page.next])}>Older</button>
        </p>`}`}<//>
    <//>
  <//>`;
}

function delay(row) {
  if (row.delay_slots !== null) return plural(row.delay_slots, "slot");
  if (row.waiting_slots !== null) return html`<span class="critical">waits ${plural(row.waiting_slots, "slot")}</span>`;
  return "–";
}
