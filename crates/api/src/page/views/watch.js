// Watched keys: groups, when each key was last heard, alarms and kill switches.
import { html, useState } from "../vendor/preact-htm.js";
import { useHealth, useJson } from "../lib/data.js";
import { Answer, Facts, Page, Pill, Section, SlotLink, Table, Time, ValidatorLink } from "../lib/parts.js";
import { grouped, listed, percent, plural, words } from "../lib/text.js";
import { kindName, switchName, switchState } from "../lib/words.js";

const KEYS_PER_PAGE = 100;
const SWITCHES = {
  ready: ["good", "kill switch ready"],
  ordered: ["wait", "kill switch ordered"],
  done: ["bad", "kill switch fired"],
  failed: ["bad", "kill switch FAILED"],
  dry: ["bad", "kill switch: dry run, nothing stopped"],
};

function alarmWords(alarms) {
  const more = alarms.is_partial ? "+" : "";
  return Object.entries(alarms.by_kind).map(([kind, n]) => `${kindName(kind).toLowerCase()}${n > 1 ? ` × ${grouped(n)}${more}` : ""}`).join(", ");
}

const ALARM_TONES = { critical: "critical", warning: "warning" };

function heardWords(heard, keys) {
  if (heard === null) return "not yet known";
  const since = heard.since === null ? "" : `, since ${heard.since.slice(11, 16)} UTC, by ${plural(heard.peers, "peer")}`;
  return `${grouped(heard.heard)} of ${grouped(keys)}${since}`;
}

// The list of those that are not heard is cut; it is ascending.
function inEarshot(index, group) {
  const heard = group.first_hand;
  if (heard === null) return "not yet known";
  if (heard.missing.includes(index)) return "no";
  const isCut = heard.missing.length < group.validators - heard.heard;
  return isCut && BigInt(index) > BigInt(heard.missing.at(-1) ?? 0) ? "–" : "yes";
}

export function Watch() {
  const { status } = useHealth();
  const groups = useJson("/v1/watch/groups", ["poll", "finding"]);
  const coverage = useJson("/v1/coverage", ["poll"]);
  return html`<${Page} title="Watched keys" lead="Your own keys: whether they vote, whether this watcher would hear a second signer, and what stops them.">
    <${Answer} of=${groups} what="watched keys">${({ groups: all }) => all.length
      ? all.map((group) => html`<${Group} key=${group.name} group=${group} status=${status} />`)
      : html`<div class="empty"><p class="answer">No keys are watched.</p><p>Name your groups under <code>[[watch.groups]]</code>, or in a CSV file under <code>watch.files</code>. A recording watches nobody.</p></div>`}<//>
    <${Answer} of=${coverage} what="how your nodes are heard">${({ coverage: measured }) => measured?.peering?.flags.length ? html`<${Section} title="Have your own nodes heard" note="A node with this option sends everything that it publishes to this watcher. Restart it afterwards; its keys are heard two epochs later.">
      <${Table} label="Options by client" rows=${measured.peering.flags} keyOf=${(row) => row.client} columns=${[["Client", (row) => row.client], ["Options", (row) => html`<code class="whole">${row.options}</code>`, "text"]]} />
    <//>` : null}<//>
  <//>`;
}

function Group({ group, status }) {
  const armed = group.is_armed_again;
  const [state, text] = armed ? ["good", "kill switch armed again"] : group.kill_switch ? SWITCHES[switchState(group, status)] ?? ["none", group.kill_switch.state] : ["none", switchName(group, status)];
  const heard = group.first_hand;
  const hasFired = group.kill_switch && group.kill_switch.state !== "ready";
  const worst = armed ? null : group.alarms.worst;
  const tone = hasFired || worst === "critical" ? "critical" : worst || group.missing ? "warning" : "good";
  const alarms = alarmWords(group.alarms);
  return html`<section class=${"group " + tone} aria-label=${"Group " + group.name}>
    <h2>${group.name} <${Pill} tone=${state}>${text}<//></h2>
    <${Facts} columns=${true} of=${[
      ["Keys", grouped(group.validators) + (group.unknown_keys ? ` + ${grouped(group.unknown_keys)} not on chain yet` : "")],
      ["Missed their last duty", grouped(group.missing), group.missing ? "warning" : ""],
      ["Most misses in a row", grouped(group.missed_in_a_row), group.missed_in_a_row ? "warning" : ""],
      ["Effectiveness", percent(group.effectiveness)],
      ["In earshot", heardWords(heard, group.validators), heard !== null && heard.heard < group.validators ? "warning" : ""],
      ["Alarms", (alarms || "none") + (armed && alarms ? ", nothing critical since the kill switch was armed again" : ""), ALARM_TONES[worst] ?? ""],
    ]} />
    <${Switch} of=${group.kill_switch} isKnown=${!status?.recording} />
    ${heard !== null && heard.missing.length > 0 && html`<p class="warning">Not in earshot: ${listed(heard.missing, 8, group.validators - heard.heard)}. A second signer of these keys may go unheard.</p>`}
    <${Keys} group=${group} />
  </section>`;
}

function AfterStop({ of }) {
  if (of.state === "signing") return html`<p class="critical">After the stop ${listed(of.validators, 8, of.keys)} still ${of.keys === 1 ? "signs" : "sign"}, since slot <${SlotLink} slot=${of.since} />. Find the machine that signs and switch it off.</p>`;
  if (of.state === "silent") return html`<p>Silent since slot <${SlotLink} slot=${of.since} />: no key has signed in two epochs that were heard.</p>`;
  return html`<p class="note">Listening whether the keys are silent: this takes two epochs.</p>`;
}

function Switch({ of, isKnown }) {
  if (!of) return html`<p class="note">${isKnown ? html`Nothing stops these keys by itself. <a href="/docs/watching.md">How to have a kill switch</a>` : "This is a recording: it has no record of a kill switch of this group, so whether there was one is not known."}</p>`;
  return html`
    ${of.finding && html`<p class=${of.state === "failed" ? "critical" : ""}>Ordered <${Time} of=${of.ordered_at} precise /> UTC because of a <a href=${"/findings/" + of.finding}>${kindName(of.kind).toLowerCase()}</a>${of.attempts > 1 ? `, ${of.attempts} attempts` : ""}${of.took_ms !== null ? `; the order ended after ${grouped(of.took_ms)} ms` : ""}${of.answer ? `: ${of.answer}` : ""}.${of.state === "failed" && of.after_stop?.state === "signing" ? " Keys sign nevertheless: stop the validator clients by hand." : ""}</p>`}
    ${of.dry_run && of.finding && html`<p class="critical">This was a dry run: nothing was stopped.</p>`}
    ${of.after_stop && !of.dry_run && html`<${AfterStop} of=${of.after_stop} />`}
    ${of.armed_again_at && html`<p class="note">Made ready again <${Time} of=${of.armed_again_at} precise /> UTC.</p>`}
    ${of.held_back && html`<p class="note">Held back ${plural(of.held_back.times, "time")}, the last time <${Time} of=${of.held_back.at} /> UTC at a <a href=${"/findings/" + of.held_back.finding}>${kindName(of.held_back.kind).toLowerCase()}</a>: ${of.held_back.reason}.</p>`}`;
}

function Keys({ group }) {
  const [isOpen, setOpen] = useState(false);
  const [isMissing, setMissing] = useState(false);
  const [cursors, setCursors] = useState([]);
  const cursor = cursors.at(-1);
  const address = `/v1/watch/validators?group=${encodeURIComponent(group.name)}&limit=${KEYS_PER_PAGE}${isMissing ? "&missed_in_a_row=1" : ""}${cursor ? "&cursor=" + cursor : ""}`;
  const keys = useJson(isOpen ? address : null, ["poll"], true);
  return html`<details onToggle=${(event) => setOpen(event.currentTarget.open)}><summary>Keys of ${group.name}</summary>
    <p><label><input type="checkbox" checked=${isMissing} onChange=${(event) => { setMissing(event.currentTarget.checked); setCursors([]); }} /> only keys that missed their last duty</label></p>
    ${isOpen && html`<${Answer} of=${keys} what="keys">${(page) => html`<${Table} label=${"Keys of " + group.name} rows=${page.validators} keyOf=${(key) => key.index}
      empty=${isMissing ? "No key missed its last duty." : "No key of this group is on chain yet."} columns=${[
        ["Validator", (key) => html`<${ValidatorLink} index=${key.index} />`],
        ["Last vote", (key) => (key.last_vote === null ? "none heard" : html`slot <${SlotLink} slot=${key.last_vote} />`)],
        ["Missed in a row", (key) => html`<span class=${key.missed_in_a_row ? "warning" : ""}>${grouped(key.missed_in_a_row)}</span>`],
        ["State on chain", (key) => html`<span class=${key.state.includes("slashed") ? "critical" : ""}>${words(key.state)}</span>`],
        ["In earshot", (key) => inEarshot(key.index, group), "extra"],
        ["Voted", (key) => `${key.voted} of ${key.duties}`, "extra"],
        ["Proposed", (key) => html`<span class=${key.proposed < key.proposals ? "warning" : ""}>${key.proposals ? `${key.proposed} of ${key.proposals}` : "–"}</span>`, "extra"],
        ["Effectiveness", (key) => percent(key.effectiveness), "extra"],
        ["Duty", (key) => key.duty, "extra"],
        ["Alarms", (key) => html`<span class=${ALARM_TONES[key.alarms.worst] ?? ""}>${alarmWords(key.alarms) || "none"}</span>`],
      ]} />
      ${(cursors.length > 0 || page.next !== null) && html`<p class="pager">
        <button type="button" disabled=${!cursors.length} onClick=${() => setCursors(cursors.slice(0, -1))}>Previous</button>
        <span role="status">Page ${cursors.length + 1} of ${grouped(Math.max(1, Math.ceil(group.validators / KEYS_PER_PAGE)))}</span>
        <button type="button" disabled=${page.next === null} onClick=${() => setCursors([...cursors, page.next])}>Next</button>
      </p>`}`}<//>`}
  </details>`;
}
