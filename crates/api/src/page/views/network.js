// The network as it is heard here: clients, subnets, arrival, our clock, and how much is heard.
import { html } from "../vendor/preact-htm.js";
import { BarChart } from "../lib/charts.js";
import { useHealth, useJson } from "../lib/data.js";
import { Answer, Bars, EpochLink, Facts, Page, Pill, Section, Table, Time } from "../lib/parts.js";
import { grouped, millis, percent, plural } from "../lib/text.js";
import { Notices } from "./now.js";

export function Network() {
  const { status } = useHealth();
  const network = useJson("/v1/network", ["poll"]);
  const coverage = useJson("/v1/coverage", ["poll"]);
  const forks = useJson("/v1/forks");
  return html`<${Page} title="The network as it is heard here">
    ${status && html`<${Notices} status=${status} />`}
    <div class="split even">
      <${Section} title="How much is heard"><${Answer} of=${coverage} what="coverage">${({ coverage: measured }) => html`<${Coverage} of=${measured} />`}<//><//>
      <${Section} title="Peers">${status && html`<${Peers} status=${status} />`}<//>
    </div>
    <${Answer} of=${network} what="clients, subnets and arrival">${(data) => html`<${Measured} network=${data} />`}<//>
    <${Section} title="Forks"><${Answer} of=${forks} what="forks">${(data) => html`<${Forks} forks=${data} />`}<//><//>
  <//>`;
}

function Coverage({ of }) {
  if (!of) return html`<p class="quiet">A recording hears nothing.</p>`;
  return html`
    <${Facts} of=${[
      ["Stake heard first-hand", percent(of.first_hand) + (of.first_hand === 0 && !of.peers ? ": no peer brings votes of its own yet" : "")],
      [of.epoch === null ? "Votes of the last epoch heard first-hand" : `Votes of epoch ${grouped(of.epoch)} heard first-hand`, percent(of.last_epoch)],
      ["From peers", grouped(of.peers) + (of.peers_discarded ? ` (${grouped(of.peers_discarded)} more bring others' votes and do not count)` : ""), of.peers_discarded ? "warning" : ""],
      [`Slashed by blocks in ${of.punished.days} days`, of.punished.validators ? `${grouped(of.punished.heard)} of ${grouped(of.punished.validators)} heard before` : "none", of.punished.heard < of.punished.validators ? "warning" : ""],
    ]} />
    ${of.first_hand === null ? html`<p class="note">The first measurement comes after the first complete epoch.</p>` : html`
      <h3>Of all stake, by the peers' client</h3><${Bars} label="Stake heard first-hand by client" rows=${of.by_client.map((row) => [row.client, row.first_hand, percent(row.first_hand)])} />
      ${of.by_label.length > 0 && html`<h3>Within each label</h3><${Bars} label="Stake heard first-hand within each label" rows=${of.by_label.map((row) => [row.label, row.first_hand, percent(row.first_hand)])} />`}`}`;
}

function Peers({ status }) {
  const reach = status.connections;
  const peers = status.gossip_peers;
  if (status.recording) return html`<p class="quiet">A recording has no peers.</p>`;
  return html`
    <${Facts} of=${[
      ["Connected", grouped(status.peers)],
      reach && ["Dialled us", grouped(reach.inbound)],
      reach && ["Dialled by us", grouped(reach.outbound)],
      reach && reach.known_nodes !== null && ["Known nodes", grouped(reach.known_nodes)],
      reach && reach.known_nodes !== null && ["Reached from outside", reach.reached_from_outside ? html`${plural(reach.reached_from_outside, "time")}, last <${Time} of=${reach.last_reached} />` : "not yet"],
      reach && ["Topics without a peer", reach.silent_topics.length ? reach.silent_topics.length : "none", reach.silent_topics.length ? "warning" : ""],
      ["Beacon node", { connected: "connected", away: "away", not_configured: "none" }[status.node.state]],
    ]} />
    ${peers.length > 0 && html`<details><summary>Gossip peers</summary><${Table} label="Gossip peers" rows=${peers} keyOf=${(peer) => peer.peer} columns=${[
      ["Peer", (peer) => html`<code class="whole">${peer.peer}</code>`],
      ["Client", (peer) => peer.agent ?? "–"],
      ["State", (peer) => (peer.connected ? "connected" : peer.next_attempt_seconds === null ? "away" : `dialled again in ${peer.next_attempt_seconds} s`)],
      ["Last goodbye", (peer) => (peer.goodbye ? `${peer.goodbye.reason}, ${peer.goodbye.times} in a row` : "none"), "extra"],
    ]} /></details>`}`;
}

function Measured({ network }) {
  const votes = network.clients.reduce((sum, row) => sum + row.votes, 0);
  const arrival = arrivalRows(network.arrival);
  const isEmpty = !network.slots_measured;
  const note = `Measured over ${plural(network.slots_measured, "slot")}.`;
  return html`
    <div class="split even">
      <${Section} title="Clients" note="By what their blocks say. Of most validators the client is not known.">
        <${Table} label="Clients" rows=${network.clients} keyOf=${(row) => row.client} empty="No client is known yet." columns=${[
          ["Client", (row) => row.client],
          ["Votes", (row) => `${grouped(row.votes)} (${percent(votes ? row.votes / votes : null)})`],
          ["Blocks", (row) => grouped(row.blocks)],
          ["Blocks arrive after", (row) => (row.block_arrival_ms_median === null ? "–" : millis(row.block_arrival_ms_median))],
        ]} />
        ${network.peers.by_client.length > 0 && html`<h3>Our peers</h3><${Bars} label="Peers by client" rows=${network.peers.by_client.map((row) => [row.client, row.peers / Math.max(1, network.peers.connected), grouped(row.peers)])} />`}
      <//>
      <${Section} title="Our clock" note=${note}><${Clock} network=${network} /><//>
    </div>
    <${Section} title="When votes arrive" note=${note + " By the time after the start of the vote's own slot."}>
      ${isEmpty || !arrival.length ? html`<p class="quiet">Nothing is measured.</p>` : html`<${BarChart} label="Arrival of votes after the start of their slot" rows=${arrival} unit="Votes by arrival, in seconds after the slot's start" />`}
    <//>
    <${Section} title="Subnets" note=${note + " Attestations on each of the 64 attestation subnets. A subnet without peers is a deaf spot."}><${Subnets} rows=${network.subnets} isEmpty=${isEmpty} /><//>`;
}

// Only the part of the histogram that has votes, with a little room.
function arrivalRows({ bucket_ms: width, first_bucket_ms: start, votes }) {
  const used = votes.map((n, at) => (n ? at : -1)).filter((at) => at >= 0);
  if (!used.length) return [];
  const [from, to] = [Math.max(0, used[0] - 1), Math.min(votes.length - 1, used.at(-1) + 1)];
  return votes.slice(from, to + 1).map((n, k) => {
    const at = (start + (from + k) * width) / 1000;
    const digits = width < 400 ? 2 : 1;
    return { x: at, name: at.toFixed(digits), value: n, tone: at < 0 ? "bad" : "", note: `${at.toFixed(digits)} to ${(at + width / 1000).toFixed(digits)} s: ${plural(n, "vote")}` };
  });
}

function Clock({ network }) {
  const { clock, blocks } = network;
  return html`<${Facts} of=${[
    ["Own clock", clock.incident ? html`<a href=${"/incidents/" + clock.incident}>is wrong: see the incident</a>` : network.slots_measured ? "agrees with the network" : "not yet known", clock.incident ? "critical" : ""],
    ["Votes for slots that had not begun", grouped(clock.early_votes), clock.early_votes ? "warning" : ""],
    ["Blocks for slots that had not begun", grouped(clock.early_blocks), clock.early_blocks ? "warning" : ""],
    ["Longest wait of a message here", millis(clock.longest_wait_ms)],
    ["Blocks heard", grouped(blocks.heard)],
    blocks.arrival_ms && ["Blocks arrive after", `${millis(blocks.arrival_ms.p50)} (half), ${millis(blocks.arrival_ms.p95)} (19 of 20), ${millis(blocks.arrival_ms.max)} (all)`],
    ["Genesis", html`<${Time} of=${network.network.genesis_time} /> UTC`],
    ["Slot", millis(network.network.slot_ms)],
    ["Genesis validators root", html`<code class="whole">${network.network.genesis_validators_root}</code>`],
  ]} />`;
}

function Subnets({ rows, isEmpty }) {
  if (isEmpty) return html`<p class="quiet">Nothing is measured.</p>`;
  const most = Math.max(1, ...rows.map((row) => row.votes));
  const silent = rows.filter((row) => !row.votes).map((row) => row.subnet);
  const level = (row) => (row.votes ? "l" + Math.max(1, Math.ceil((row.votes / most) * 4)) : row.peers === 0 ? "deaf" : "l0");
  const deaf = rows.filter((row) => !row.votes && row.peers === 0).map((row) => row.subnet);
  return html`<ul class="subnets" aria-hidden="true">${rows.map((row) => html`<li key=${row.subnet} class=${level(row)} title=${`Subnet ${row.subnet}: ${plural(row.votes, "vote")}`}>${row.subnet}</li>`)}</ul>
    <p>${silent.length ? `Nothing was heard on ${plural(silent.length, "subnet")}: ${silent.join(", ")}. A small network does not use all of them.` : "All subnets were heard."}${deaf.length > 0 && ` Without a peer: ${deaf.join(", ")}.`}</p>
    <details><summary>As a table</summary><${Table} label="Subnets" rows=${rows} keyOf=${(row) => row.subnet} columns=${[["Subnet", (row) => row.subnet], ["Votes", (row) => grouped(row.votes)], ["Peers", (row) => (row.peers === null ? "not known" : row.peers)]]} /></details>`;
}

function Forks({ forks }) {
  return html`${forks.unknown_fork && html`<p class="warning">${forks.unknown_fork}</p>`}
    <${Table} label="Forks" rows=${forks.forks} keyOf=${(row) => row.name + row.epoch + row.digest} columns=${[
      ["Fork", (row) => html`${row.blob_parameters ? `${row.name}, blobs up to ${row.max_blobs}` : row.name} ${row.state === "current" && html`<${Pill} tone="good">now<//>`}`],
      ["Epoch", (row) => html`<${EpochLink} epoch=${row.epoch} />`],
      ["Time", (row) => html`<${Time} of=${row.time} />`],
      ["Digest", (row) => html`<code>${row.digest}</code>`],
      ["Version", (row) => html`<code>${row.version ?? "–"}</code>`, "extra"],
      ["State", (row) => row.state, "extra"],
    ]} />`;
}
