// The pieces that views are made of.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { grouped, short, words } from "./text.js";

// A view: its heading takes the focus when the reader comes from another view, so that a screen
// reader says where it is.
export function Page({ title, crumb, lead, children }) {
  const heading = useRef();
  useEffect(() => {
    document.title = title + " · slashwatch";
  }, [title]);
  useEffect(() => {
    if (document.body.dataset.moved) heading.current?.focus({ preventScroll: true });
  }, []);
  return html`<div class="page">
    <header class="head">
      ${crumb && html`<p class="crumb">${crumb}</p>`}
      <h1 tabindex="-1" ref=${heading}>${title}</h1>
      ${lead && html`<div class="lead">${lead}</div>`}
    </header>
    ${children}
  </div>`;
}

export function Section({ title, note, children }) {
  const id = "s-" + title.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  return html`<section aria-labelledby=${id}>
    <h2 id=${id}>${title}</h2>
    ${note && html`<p class="note">${note}</p>`}
    ${children}
  </section>`;
}

// Shows an answer, or says why there is none. `what` names it in sentences.
export function Answer({ of, what, children }) {
  if (of.data) {
    return html`${of.error && html`<p class="stale" role="status">Not up to date: ${of.error.message}.</p>`}${children(of.data)}`;
  }
  if (!of.error) return html`<p class="quiet" role="status">Loading ${what}.</p>`;
  if (of.error.isMissingRoute) return html`<p class="quiet" role="status">${capital(what)}: not available in this version of slashwatch.</p>`;
  if (of.error.status === 403) return html`<p class="quiet" role="status">${capital(what)}: not shown on this address.</p>`;
  if (of.error.status === 404) return html`<p class="quiet" role="status">${capital(what)}: nothing is known. ${capital(of.error.message)}.</p>`;
  return html`<p class="stale" role="status">${capital(what)} could not be loaded: ${of.error.message}.</p>`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export function Pill({ tone = "none", children }) {
  return html`<span class=${"pill " + tone}>${children}</span>`;
}

export const TONES = { critical: "bad", warning: "wait", info: "none" };
export function Severity({ of }) {
  return html`<${Pill} tone=${TONES[of] ?? "none"}>${of}<//>`;
}

export function Time({ of, precise }) {
  if (!of) return "–";
  return html`<time datetime=${of} title=${of}><span class="date">${of.slice(0, 10)} </span>${of.slice(11, precise ? 23 : 19)}</time>`;
}

// Pairs of a name and a value. Pairs without a value are left out.
export function Facts({ of, columns }) {
  const shown = of.filter((row) => row && row[1] !== undefined && row[1] !== null && row[1] !== false);
  return html`<dl class=${"facts" + (columns ? " columns" : "")}>
    ${shown.map(([name, value, tone]) => html`<div key=${name}><dt>${name}</dt><dd class=${tone ?? ""}>${value}</dd></div>`)}
  </dl>`;
}

// A hash or key: short on the page, whole for who copies or points at it.
export function Hash({ of, n }) {
  return of ? html`<code title=${of}>${short(of, n)}</code>` : "–";
}

export const ValidatorLink = ({ index }) => html`<a href=${"/validators/" + index}>${index}</a>`;
export const SlotLink = ({ slot }) => html`<a href=${"/slots/" + slot}>${grouped(slot)}</a>`;
export const EpochLink = ({ epoch }) => html`<a href=${"/epochs/" + epoch}>${grouped(epoch)}</a>`;
export const LabelLink = ({ label }) => html`<a class="label" href=${"/?label=" + encodeURIComponent(label)}>${label}</a>`;
export const FindingLink = ({ id, children }) => html`<a href=${"/findings/" + id}>${children ?? html`<${Hash} of=${id} />`}</a>`;

// A table that scrolls inside itself. Columns: [heading, cell(row), class]. Columns of class
// "extra" are left out on narrow screens.
export function Table({ label, columns, rows, keyOf, caption, empty, rowClass }) {
  if (!rows.length) return html`<p class="quiet">${empty ?? "None."}</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${"Table: " + label}>
    <table>
      ${caption && html`<caption>${caption}</caption>`}
      <thead><tr>${columns.map(([heading, , name]) => html`<th scope="col" class=${name ?? ""}>${heading}</th>`)}</tr></thead>
      <tbody>${rows.map((row, n) => html`<tr key=${keyOf ? keyOf(row) : n} class=${rowClass?.(row) ?? ""}>
        ${columns.map(([, cell, name]) => html`<td class=${name ?? ""}>${cell(row, n)}</td>`)}
      </tr>`)}</tbody>
    </table>
  </div>`;
}

// The same for a list that is all here: a hundred rows at a time.
export function LongTable({ rows, per = 100, ...rest }) {
  const [page, setPage] = useState(0);
  const last = Math.max(0, Math.ceil(rows.length / per) - 1);
  const now = Math.min(page, last);
  return html`<${Table} ...${rest} rows=${rows.slice(now * per, (now + 1) * per)} />
    ${last > 0 && html`<p class="pager">
      <button type="button" disabled=${now === 0} onClick=${() => setPage(now - 1)}>Previous</button>
      <span role="status">${grouped(now * per + 1)} to ${grouped(Math.min(rows.length, (now + 1) * per))} of ${grouped(rows.length)}</span>
      <button type="button" disabled=${now === last} onClick=${() => setPage(now + 1)}>Next</button>
    </p>`}`;
}

// Lines break between the words of a command, and within what is too long for a line only.
const MAX_WORD = 44;
const unbroken = (text) => text.split(/(\s+)/).map((part, n) => (n % 2 || part.length > MAX_WORD ? part : html`<span class="word" key=${n}>${part}</span>`));

// A command line to take along.
export function Command({ text, label }) {
  const [copied, setCopied] = useState(false);
  const copy = () => navigator.clipboard.writeText(text).then(() => setCopied(true), () => {});
  return html`<div class="command">
    <pre tabindex="0" aria-label=${label}>${unbroken(text)}</pre>
    ${navigator.clipboard && html`<button type="button" onClick=${copy} aria-label=${"Copy: " + label}>${copied ? "Copied" : "Copy"}</button>`}
  </div>`;
}

// What to do, in this order: sentences, or `{ text, link: [address, name], after }`, or
// `{ text, command }`.
export function Steps({ of }) {
  return html`<ol class=${of.length > 1 ? "steps" : "steps single"}>${of.map((step) => typeof step === "string"
    ? html`<li key=${step}>${step}</li>`
    : html`<li key=${step.text}>${step.text}${step.link && html`<a href=${step.link[0]}>${step.link[1]}</a>`}${step.after}${step.command && html`<${Command} label="Command for this step" text=${step.command} />`}</li>`)}</ol>`;
}

// Horizontal bars of parts of a whole: [name, share 0 to 1, text].
export function Bars({ label, rows, empty }) {
  if (!rows.length) return html`<p class="quiet">${empty ?? "Nothing is known."}</p>`;
  return html`<table class="bars"><caption class="unseen">${label}</caption><tbody>
    ${rows.map(([name, share, text]) => html`<tr key=${name}>
      <th scope="row">${name}</th>
      <td class="bar"><svg width="100%" height="10" aria-hidden="true"><rect class="track" width="100%" height="10" rx="3" /><rect class="fill" width=${Math.max(0, Math.min(1, share)) * 100 + "%"} height="10" rx="3" /></svg></td>
      <td class="number">${text}</td>
    </tr>`)}
  </tbody></table>`;
}

// Who voted alike, by client or label.
export function Tally({ rows, field, of, label }) {
  const shown = rows.filter((row) => row.votes).slice(0, 8);
  return html`<${Bars} label=${label} rows=${shown.map((row) => [words(row[field]), of ? row.votes / of : 0, grouped(row.votes)])} empty="Clients are not known." />`;
}
