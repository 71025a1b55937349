// The table of findings, a page at a time: the server filters and sorts. On its first page it is
// live.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { getJson, useHealth, useJson } from "./data.js";
import { Answer, Severity, SlotLink, Table, Time, ValidatorLink } from "./parts.js";
import { grouped } from "./text.js";
import { includedWords, kindName, sourceName } from "./words.js";

const PER_PAGE = 50;

// One label, the group's if there is one, and how many more there are.
function labelWords(labels) {
  const first = labels.find((label) => label.startsWith("group=")) ?? labels[0];
  return first + (labels.length > 1 ? ` +${labels.length - 1}` : "");
}

const COLUMNS = [
  ["Seen", (finding) => html`<${Time} of=${finding.second_seen ?? finding.first_seen} />`],
  ["What", (finding) => html`<a href=${"/findings/" + finding.id}>${kindName(finding.kind)}</a>`],
  ["Validator", (finding) => finding.validator ? html`<${ValidatorLink} index=${finding.validator.index} />${finding.validator.labels.length > 0 && html` <span class="soft extra">${labelWords(finding.validator.labels)}</span>`}` : "–"],
  ["Slot", (finding) => html`<${SlotLink} slot=${finding.slot} />`],
  ["Severity", (finding) => html`<${Severity} of=${finding.severity} />`, "extra"],
  ["Heard in", (finding) => finding.sources.map(sourceName).join(", "), "extra"],
  ["Included", includedWords, "extra"],
];

export function FindingsTable({ findings, label = "Findings", empty = "No findings." }) {
  return html`<${Table} label=${label} columns=${COLUMNS} rows=${findings} keyOf=${(finding) => finding.id} empty=${empty} />`;
}

// `filter` is the query of /v1/findings without order, limit and cursor: "&kind=double_vote".
export function FindingsList({ filter, empty }) {
  const { status } = useHealth();
  const [cursors, setCursors] = useState([]);
  useEffect(() => setCursors([]), [filter]);
  const cursor = cursors.at(-1);
  const address = `/v1/findings?order=desc&limit=${PER_PAGE}${filter}${cursor ? "&cursor=" + cursor : ""}`;
  const page = useJson(address, cursor ? [] : ["finding"], true);
  const more = useMore(page.data, filter);
  const none = empty ?? (filter ? "No finding matches." : status?.recording ? "This recording has no findings."
    : status && !status.ready ? "No findings so far. Nothing is received now, so this says nothing about the network."
      : "No findings so far. This is the normal case: about 500 of a million validators were ever slashed.");
  return html`<${Answer} of=${page} what="findings">${(data) => {
    const rows = data.findings.concat(more.rows);
    const next = more.next === undefined ? data.next : more.next;
    return html`
      <${FindingsTable} findings=${rows} empty=${next === null ? none : "None among the newest. Older ones follow."} />
      ${(cursors.length > 0 || next !== null) && html`<p class="pager">
        <button type="button" disabled=${!cursors.length} onClick=${() => setCursors(cursors.slice(0, -1))}>Newer</button>
        <span role="status">Page ${grouped(cursors.length + 1)}${!filter && status ? ` of ${grouped(Math.max(1, Math.ceil(status.findings / PER_PAGE)))}` : ""}</span>
        <button type="button" disabled=${next === null} onClick=${() => setCursors([...cursors, next])}>Older</button>
      </p>`}`;
  }}<//>`;
}

// A page of the API may be short although more follow. Then the next ones are asked for too.
function useMore(page, filter) {
  const [more, setMore] = useState({ of: null, rows: [], next: undefined });
  useEffect(() => {
    if (!page || page.next === null || page.findings.length >= PER_PAGE / 2) return undefined;
    let isCurrent = true;
    (async () => {
      let rows = [];
      let next = page.next;
      for (let n = 0; n < 20 && next !== null && page.findings.length + rows.length < PER_PAGE / 2; n++) {
        const answer = await getJson(`/v1/findings?order=desc&limit=${PER_PAGE}${filter}&cursor=${next}`);
        rows = rows.concat(answer.findings);
        next = answer.next;
      }
      if (isCurrent) setMore({ of: page, rows, next });
    })().catch(() => {});
    return () => (isCurrent = false);
  }, [page, filter]);
  return more.of === page ? more : { rows: [], next: undefined };
}
