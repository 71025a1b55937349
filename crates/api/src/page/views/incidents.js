// All incidents, the latest change first.
import { html } from "../vendor/preact-htm.js";
import { useAll, useHealth, useJson } from "../lib/data.js";
import { Answer, LongTable, Page, Pill, Section, Severity, SlotLink, Time, TONES } from "../lib/parts.js";
import { grouped, words } from "../lib/text.js";
import { foremost, incidentWords, isOpen, kindName, STATES } from "../lib/words.js";

const MOST = 3000;

// One page of the API is enough for what is open; it is asked again when an incident changes.
export function useIncidents() {
  return useJson("/v1/incidents?limit=1000", ["incident"]);
}

function IncidentCard({ incident }) {
  const { what } = incidentWords(incident);
  return html`<article class=${"card " + incident.severity + (isOpen(incident) ? "" : " over")}>
    <h3><a href=${"/incidents/" + incident.id}>${kindName(incident.kind)}</a> <${Pill} tone=${isOpen(incident) ? TONES[incident.severity] : "none"}>${STATES[incident.state] ?? incident.state}<//></h3>
    <p>${what}</p>
    <p class="soft">Slots ${grouped(incident.first_slot)} to ${grouped(incident.last_slot)}, since <${Time} of=${incident.opened_at} /> UTC</p>
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
  const recent = useIncidents();
  // More than a thousand are rare. They are read once.
  const rest = useAll(recent.data?.next ? "/v1/incidents?limit=1000&cursor=" + recent.data.next : null, "incidents", MOST);
  return html`<${Page} title="Incidents" lead="Many findings, or many messages that are no offence, mean something together. An incident begins, grows, wanes, and is over.">
    <${Section} title="All incidents">
      <${Answer} of=${recent} what="incidents">${(data) => html`<${LongTable}
        label="Incidents" rows=${foremost(data.incidents.concat(rest.rows))} keyOf=${(row) => row.id}
        empty=${status?.recording ? "This recording has no incidents." : "No incidents so far."}
        columns=${[
          ["What", (row) => html`<a href=${"/incidents/" + row.id}>${kindName(row.kind)}</a>`],
          ["State", (row) => html`<${Pill} tone=${isOpen(row) ? TONES[row.severity] : "none"}>${STATES[row.state] ?? row.state}<//>`],
          ["Severity", (row) => html`<${Severity} of=${row.severity} />`, "extra"],
          ["Validators", (row) => grouped(row.validators)],
          ["First slot", (row) => html`<${SlotLink} slot=${row.first_slot} />`],
          ["Last slot", (row) => html`<${SlotLink} slot=${row.last_slot} />`, "extra"],
          ["Since", (row) => html`<${Time} of=${row.opened_at} />`, "extra"],
          ["In words", (row) => incidentWords(row).what, "extra text"],
          ["Cause", (row) => row.details.suspected_cause ? words(row.details.suspected_cause) : "–", "extra"],
        ]} />`}<//>
    <//>
  <//>`;
}
