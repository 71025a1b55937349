// Shows how much of the network is heard first-hand, in sums, and how to have one's own nodes heard.
"use strict";

// The options by which nodes name this watcher as a direct peer. Groups with unheard keys point to them.
let peeringFlags = [];

function shareOf(share) {
  return share === null ? "not yet measured" : (share * 100).toFixed(1) + "\u202f%";
}

// A bar for a share, with the number as text beside it.
function bar(share) {
  const made = element("meter");
  made.min = 0;
  made.max = 1;
  made.value = share;
  made.textContent = shareOf(share);
  return made;
}

function shareRows(id, rows) {
  by(id).replaceChildren(...rows.map(([name, share, title]) => {
    const row = element("tr");
    const head = element("th", name);
    head.scope = "row";
    const value = element("td", shareOf(share));
    const shown = element("td");
    shown.append(bar(share));
    row.append(head, value, shown);
    row.title = title;
    return row;
  }));
}

function showPeering(peering) {
  peeringFlags = peering ? peering.flags : [];
  by("peering").hidden = !peeringFlags.length;
  const text = peeringFlags.map((flag) => `${flag.client.padEnd(11)} ${flag.options}`).join("\n");
  if (by("peering_flags").textContent !== text) setText("peering_flags", text);
}

async function coverage() {
  const answer = (await getJson("v1/coverage")).coverage;
  // A recording hears nothing.
  by("coverage").hidden = answer === null;
  by("heard").hidden = answer === null;
  if (answer === null) return;
  setText("heard_share", shareOf(answer.first_hand));
  const punished = answer.punished;
  const discarded = answer.peers_discarded;
  by("coverage_facts").replaceChildren(
    fact("Stake heard first-hand", shareOf(answer.first_hand)),
    fact(`Votes of epoch ${answer.epoch === null ? "\u2013" : grouped(answer.epoch)} heard first-hand`, shareOf(answer.last_epoch)),
    fact("From peers", grouped(answer.peers) + (discarded ? ` (${grouped(discarded)} more bring others' votes and do not count)` : ""), discarded ? "warning" : ""),
    fact(
      `Slashed by blocks in ${punished.days} days`,
      punished.validators ? `${grouped(punished.heard)} of ${grouped(punished.validators)} heard before` : "none",
      punished.heard < punished.validators ? "warning" : "",
    ),
  );
  shareRows("by_client", answer.by_client.map((row) => [row.client, row.first_hand, `${row.peers} peers`]));
  shareRows("by_label", answer.by_label.map((row) => [row.label, row.first_hand, `${row.validators} validators`]));
  by("by_client").parentElement.hidden = !answer.by_client.length;
  by("by_label").parentElement.hidden = !answer.by_label.length;
  showPeering(answer.peering);
}
