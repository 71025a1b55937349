// All incidents, the latest change first.
import { html } from "../vendor/preact-htm.js";
import { useAll, useHealth } from "../lib/data.js";
import { Answer, LongTable, Page, Pill, Section, Severity, SlotLink, Time, TONES } from "../lib/parts.js";
import { grouped, words } from "../lib/text.js";
import { foremost, incidentName, incidentWords, isOpen, STATES } from "../lib/words.js";

const MOST = 50000;

// All incidents, as an answer. They come in the order of their last change, so those that are open
// may be on the last page. One that changes meanwhile comes again.
export function useIncidents() {
  const { rows, isDone, error } = useAll("/v1/incidents?limit=1000", "incidents", MOST, ["incident"]);
  const incidents = [...new Map(rows.map((row) => [row.id, row])).values()];
  return { data: isDone && (rows.length || !error) ? { incidents } : null, error };
}

function IncidentCard({ incident }) {
  const { what } = incidentWords(incident);
  return html`<article class=${"card " + incident.severity + (isOpen(incident) ? "" : " over")}>
    <h3><a href=${"/incidents/" + incident.id}>${incidentName(incident)}</a> <${Pill} tone=${isOpen(incident) ? TONES[incident.severity] : "none"}>${STATES[incident.state] ?? incident.state}<//></h3>
    <p>${what}</p>
    <p class="soft">Slots ${grouped(incident.first_slot)} to ${grouped(incident.last_slot)}, noticed <${Time} of=${incident.opened_at} /> UTC</p>
  </article>`;
}

export function IncidentCards({ incidents, most, empty }) {
  const ordered = foremost(incidents);
  if (!ordered.length) return html`<p class="quiet">${empty}</p>`;
  return html`<div class="cards">${ordered.slice(0, most).map((incident) => html`<${IncidentCard} key=${incident.id} incident=${incident} />`)}</div>
    ${ordered.length > most && html`<p><a href="/incidents">All ${grouped(ordered.length)} incidents</a></p>`}`;
}

export function Incidents() {
  const { status } = useHealth();
  const incidents = useIncidents();
  return html`<${Page} title="Incidents" lead="Many findings, or many messages that are no offence, mean something together. An incident begins, grows, wanes, and is over.">
    <${Section} title="All incidents">
      <${Answer} of=${incidents} what="incidents">${(data) => html`<${LongTable}
        label="Incidents" rows=${foremost(data.incidents)} keyOf=${(row) => row.id}
        empty=${status?.recording ? "This recording has no incidents." : "No incidents so far."}
        columns=${[
          ["What", (row) => html`<a href=${"/incidents/" + row.id}>${incidentName(row)}</a>`],
          ["State", (row) => html`<${Pill} tone=${isOpen(row) ? TONES[row.severity] : "none"}>${STATES[row.state] ?? row.state}<//>`],
          ["Severity", (row) => html`<${Severity} of=${row.severity} />`, "extra"],
          ["Validators", (row) => grouped(row.validators)],
          ["First slot", (row) => html`<${SlotLink} slot=${row.first_slot} />`],
          ["Last slot", (row) => html`<${SlotLink} slot=${row.last_slot} />`, "extra"],
          ["Noticed", (row) => html`<${Time} of=${row.opened_at} />`, "extra"],
          ["In words", (row) => incidentWords(row).what, "extra text"],
          ["Cause", (row) => row.details.suspected_cause ? words(row.details.suspected_cause) : "–", "extra"],
        ]} />`}<//>
    <//>
  <//>`;
}
