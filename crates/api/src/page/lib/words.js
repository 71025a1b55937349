// What happened, and what to do about it, in sentences.
import { between, grouped, listed, millis, plural, span, words } from "./text.js";

export const OFFENCES = ["double_vote", "surround_vote", "double_proposal"];
export const ANOMALIES = [
  "slashing_wave", "clock_skew", "own_clock", "participation_drop", "finality_delay", "head_split", "checkpoint_split",
  "competing_blocks", "deep_reorg", "stale_votes", "payload_status_split", "missed_proposals", "late_blocks", "client_dominance", "sync_storm",
  "subnet_silent", "unpunished_offence", "blind_spot", "missed_duties", "flapping_keys", "dormant_key_signed", "second_signer",
  "signed_elsewhere", "two_origins", "equivocation_not_slashable",
];

const KIND_NAMES = {
  double_vote: "Double vote",
  surround_vote: "Surround vote",
  double_proposal: "Double proposal",
  slashing_wave: "Slashing wave",
  clock_skew: "Clocks that run ahead",
  own_clock: "Our own clock is wrong",
  participation_drop: "Fewer votes",
  finality_delay: "No finality",
  head_split: "Votes for different heads",
  checkpoint_split: "Votes for different checkpoints",
  competing_blocks: "Competing blocks",
  deep_reorg: "Deep reorganisation",
  stale_votes: "Votes for old heads",
  payload_status_split: "Votes disagree about a payload",
  missed_proposals: "Missing blocks",
  late_blocks: "Late blocks",
  client_dominance: "One client is too common",
  sync_storm: "Many peers are syncing",
  subnet_silent: "A silent subnet",
  unpunished_offence: "Offences that nobody punishes",
  blind_spot: "A slashing that we had not heard",
  missed_duties: "Missed duties",
  flapping_keys: "Keys that went away and came back",
  dormant_key_signed: "A key signed that should not",
  signed_elsewhere: "A message that its client's record lacks",
  two_origins: "Keys signed from two machines in turn",
  second_signer: "A second signer",
  equivocation_not_slashable: "A contradiction that no rule punishes",
};

export const kindName = (kind) => KIND_NAMES[kind] ?? words(kind);

const CAUSES = {
  payload_status: {
    title: "two nodes disagreed about whether a payload was there, and the same keys voted with both",
    now: [
      "If one of these keys is yours: let each key vote with one beacon node only, and stop the second validator client now.",
      "If one validator client asks several nodes: switch it to one of them until its team has an answer for Gloas.",
    ],
  },
  same_keys_in_two_places: {
    title: "the same keys run in two places, or lost their signing record",
    now: [
      "If one of these keys is yours: stop every machine that holds it, now. The ones that have not contradicted themselves yet are still safe.",
      "Do not start again before slashwatch audit --data-dir DIR --interchange FILE has compared your protection database with what the network has seen.",
    ],
  },
  clocks: {
    title: "clocks ran ahead and came back",
    now: [
      "If your machines' clocks are or were ahead: stop the validator clients before you set the clock back.",
      "Start again only when real time has passed the last epoch that they voted for.",
    ],
  },
  return_from_a_branch: {
    title: "they came back from a branch that had justified another checkpoint",
    now: [
      "If your validators voted on the other branch: stop them before their node changes to this one. A vote from the old source surrounds what they signed.",
      "The heads view shows who is on which branch.",
    ],
  },
  fresh_keys: {
    title: "keys that were activated together",
    now: ["If you activated keys lately: check that no test or old machine runs them too."],
  },
  one_client: {
    title: "one client",
    now: ["If you run this client: stop it before it signs again, and read what its team says."],
  },
  unknown: {
    title: "not known yet",
    now: ["If one of these keys is yours: stop every machine that holds it until you know why."],
  },
};

export const causeTitle = (cause) => (CAUSES[cause] ?? { title: words(cause) }).title;

const clients = (counts) => listed(Object.entries(counts ?? {}).sort((a, b) => b[1] - a[1]).map(([name, n]) => `${name} ${grouped(n)}`), 6);

// For each kind of incident: one sentence that says what is seen, and what to do.
const INCIDENTS = {
  slashing_wave: (i, d) => ({
    what: `${plural(i.validators, "validator")} signed contradicting messages. Suspected cause: ${causeTitle(d.suspected_cause ?? "unknown")}.`,
    now: (CAUSES[d.suspected_cause] ?? CAUSES.unknown).now,
  }),
  clock_skew: (i, d) => ({
    what: `${d.percent_of_votes}\u202f% of the votes were for slots that had not begun, ${span(d.seconds_ahead)} ahead. By client: ${clients(d.by_client)}.`,
    now: ["Check your machines' clocks and time servers.", "Stop a validator client before you set its clock back: it will contradict what it signed too early."],
  }),
  own_clock: (i, d) => ({
    what: `Nearly all votes arrive at the wrong time: this machine's clock is ${d.our_clock_is ?? "wrong"}.`,
    now: ["Check the time service (NTP) of the machine that runs slashwatch."],
  }),
  participation_drop: (i, d) => ({
    what: `${d.participation_percent}\u202f% voted, ${d.before_percent}\u202f% before. ${d.finality_possible ? "Finality is still possible." : "That is too few to finalize anything."}`,
    now: ["See who is missing by client below. If it is your client, check its team's channel."],
  }),
  finality_delay: (i, d) => ({
    what: `Nothing was justified after epoch ${grouped(d.justified_epoch)} for ${plural(d.epochs_without_justification, "epoch")}.${d.inactivity_leak ? " The inactivity leak runs: validators that do not vote lose stake." : ""}`,
    now: ["Keep validators voting on the branch that most stake follows; do not switch branches without stopping them first."],
  }),
  head_split: (i, d) => ({
    what: `Votes name heads that exclude each other: ${(d.sides ?? []).map((side) => side.percent + "\u202f%").join(" to ")}${d.parted_after_slot ? `, parted after slot ${grouped(d.parted_after_slot)}` : ""}.`,
    now: ["See which branch your nodes follow.", "Do not let validators change sides without a check: a checkpoint of the other side may make them surround their own votes."],
  }),
  checkpoint_split: (i, d) => ({
    what: `Two branches justify different checkpoints. ${plural(d.would_surround_by_joining_the_other_side ?? 0, "validator")} cannot change sides without a surround vote.`,
    now: ["Stop validators that are on the smaller side. Do not start them on the other branch before they can vote without surrounding."],
  }),
  stale_votes: (i, d) => ({
    what: `${d.percent_of_votes}\u202f% of a slot's votes were out of date: ${plural(d.stale_heads, "old head")}, ${plural(d.stale_targets, "old target")}.`,
    now: ["Check that your nodes are in sync."],
  }),
  payload_status_split: (i, d) => ({
    what: `Validators of one label disagree about whether a block's payload was there (votes for yes and for no): ${listed((d.divided ?? []).map((one) => `${one.label} ${grouped(one.payload_present)} and ${grouped(one.payload_absent)}`), 3)}. That is no offence, but a key that votes with two such nodes signs both, and is slashed.`,
    now: [
      "If the label is yours: make sure now that no key votes with two beacon nodes, by two machines or by a client that changes nodes.",
      "Then find out which node did not see the payload: the slot view shows what was voted for.",
    ],
  }),
  missed_proposals: (i, d) => ({
    what: `${d.missed} of ${d.of_slots} slots had no block. Missing by client: ${clients(d.blocks_missing_by_client) || "not known"}.`,
    now: ["If it is your client or relay, check your nodes' logs for the proposals of these slots."],
  }),
  late_blocks: (i, d) => ({
    what: `${d.late} of ${d.of_blocks} blocks came after the votes. By client: ${clients(d.late_by_client) || "not known"}.`,
    now: ["If these are your proposers, check relays and block building times."],
  }),
  client_dominance: (i, d) => ({ what: `${d.client} has ${d.percent}\u202f%.`, now: ["One bug in it could decide the chain. Consider another client."] }),
  sync_storm: (i, d) => ({
    what: `${d.far_behind} of ${d.peers} peers are far behind. By client: ${clients(d.far_behind_by_client)}.`,
    now: ["Expect slow peers. Nodes that sync do not vote."],
  }),
  subnet_silent: (i, d) => d.subnets === "all"
    ? { what: "No vote or block came from the network at all. Offences of this time were not seen.", now: ["Check this machine's network and peers."] }
    : { what: `Nothing was heard on subnets ${listed(d.subnets ?? [], 12)}: second messages there would not reach us.`, now: ["More peers, or peers of your own, cover more subnets."] },
  unpunished_offence: (i, d) => ({
    what: `${plural(d.offences, "proven offence")} of ${plural(i.validators ?? 0, "validator")} could be punished, and no block has done it.`,
    now: ["Submit the proofs to a beacon node (each finding has the command), or set submission.enabled."],
  }),
  blind_spot: (i, d) => ({
    what: `A block punished ${listed(d.validators ?? [], 6)}, of whom nothing had been heard: ${d.why ?? "not known why"}.`,
    now: ["More peers hear more. The network view says how much is heard first-hand."],
  }),
  missed_duties: (i) => ({ what: `${plural(i.validators ?? 0, "watched key")} missed duties.`, now: ["Check the machines of this group."] }),
  flapping_keys: (i) => ({ what: `${plural(i.validators ?? 0, "watched key")} went away together and came back.`, now: ["Check for restarts; make sure no second machine took over meanwhile."] }),
};

export function incidentWords(incident) {
  try {
    const made = INCIDENTS[incident.kind]?.(incident, incident.details);
    if (made) return made;
  } catch {
    // Another version may have other details. The name is shown then.
  }
  return { what: `${kindName(incident.kind)}.`, now: [] };
}

const AUDIT = "slashwatch audit --data-dir DIR --interchange FILE";

// What to do when it is mine. `own` has a row for each of the reader's groups that is concerned:
// its name, and its kill switch if it has one.
export function nowIfMine(own) {
  const names = own.map((one) => one.name).join(", ");
  const switches = own.filter((one) => one.kill_switch && one.kill_switch.state !== "ready").map((one) => `the kill switch of ${one.name} ${SWITCHES[one.kill_switch.state] ?? one.kill_switch.state}`);
  return [
    `Stop every machine that holds a key of ${names}, now${switches.length ? ` (${switches.join("; ")}; see that it is true)` : ""}.`,
    "Do not start again today, and submit no proof against your own keys.",
    `Then export each client's protection database and compare it with what the network has seen: ${AUDIT}. Start one machine only, and only if nothing lacks.`,
  ];
}

export const SWITCHES = { ready: "ready", ordered: "ordered", done: "has fired", failed: "FAILED: stop the machines by hand" };

export const STATES = {
  open: "begun",
  growing: "growing",
  waning: "waning",
  closed: "over",
};

export function isOpen(incident) {
  return incident.state !== "closed";
}

const WEIGHT = { critical: 2, warning: 1, info: 0 };
// The incident that matters most: open before over, critical before warning, a wave of slashings
// before anything else, then the latest.
export function foremost(incidents) {
  const rank = (i) => [isOpen(i) ? 1 : 0, WEIGHT[i.severity] ?? 0, i.kind === "slashing_wave" ? 1 : 0, Number(i.last_slot)];
  return [...incidents].sort((a, b) => {
    const [x, y] = [rank(a), rank(b)];
    for (let n = 0; n < x.length; n++) if (x[n] !== y[n]) return y[n] - x[n];
    return 0;
  });
}

// ---- Findings

export function punishableWords(finding) {
  if (finding.included) return `included in slot ${grouped(finding.included.slot)}`;
  return {
    yes: "yes, not included yet",
    already_slashed: "no: slashed already",
    not_active: "no: not active yet",
    withdrawable: "no: it has left",
    fork_expired: "no: two forks old",
    unknown: "not known yet",
  }[finding.punishable] ?? "–";
}

export function includedWords(finding) {
  if (finding.included) return `slot ${grouped(finding.included.slot)}`;
  if (!finding.punishable) return "–";
  return finding.punishable === "yes" || finding.punishable === "unknown" ? "not yet" : "cannot be";
}

const SOURCES = { gossip: "gossip", block: "a block", slashing_op: "somebody's slashing operation", api: "a beacon node's event stream" };
export const sourceName = (source) => SOURCES[source] ?? words(source);

// The fields in which two votes differ, as [name, what it means].
export function voteDifferences(one, other) {
  const differs = [];
  if (one.slot !== other.slot) differs.push("slot");
  if (one.index !== other.index) differs.push("index");
  if (one.beacon_block_root !== other.beacon_block_root) differs.push("head");
  if (one.source.epoch !== other.source.epoch || one.source.root !== other.source.root) differs.push("source");
  if (one.target.epoch !== other.target.epoch || one.target.root !== other.target.root) differs.push("target");
  return differs;
}

export function findingStory(finding, evidence) {
  const who = finding.validator ? `Validator ${finding.validator.index}` : "Somebody";
  const apart = finding.second_seen ? between(finding.first_seen, finding.second_seen) : null;
  const heard = apart === null ? "" : apart < 1 ? " Both were heard at once." : ` The second one was heard ${millis(apart)} after the first.`;
  if (finding.kind === "double_proposal") return `${who} signed two different blocks for slot ${grouped(finding.slot)}.${heard}`;
  const [one, other] = [evidence?.attestation_1?.data, evidence?.attestation_2?.data];
  if (finding.kind === "surround_vote") {
    const spans = one ? ` One goes from epoch ${one.source.epoch} to ${one.target.epoch}, the other lies inside it, from ${other.source.epoch} to ${other.target.epoch}.` : "";
    return `${who} signed two votes of which one surrounds the other.${spans}${heard}`;
  }
  if (finding.kind === "double_vote") {
    const fields = one ? voteDifferences(one, other) : [];
    const differs = fields.length ? ` They differ in ${fields.join(", ").replace(/, ([^,]*)$/, " and $1")}.` : "";
    return `${who} signed two different votes for target epoch ${grouped(finding.epoch)}.${differs}${heard}`;
  }
  return `${kindName(finding.kind)}${finding.validator ? ` of validator ${finding.validator.index}` : ""} in slot ${grouped(finding.slot)}.`;
}

// `own` are the reader's groups that have the key.
export function whatNow(finding, own) {
  const apart = finding.details?.apart_ms;
  if (finding.kind === "second_signer") {
    const sisters = (finding.details?.watched_keys_with_the_same_label ?? []).length;
    return [
      `Two machines sign with validator ${finding.validator?.index}, or one lost its memory${apart === null || apart === undefined ? "" : ` (${millis(apart)} apart)`}.`,
      `Stop every machine that holds it${sisters ? ` or one of the other keys of ${own.map((one) => one.name).join(", ") || "its labels"}` : ""}, now.`,
      `The offence can be punished; the details link to it. Do not start again before ${AUDIT} has compared your protection database.`,
    ];
  }
  if (finding.evidence && own.length) return nowIfMine(own);
  if (!finding.evidence) return finding.severity === "info" ? [] : ["Nobody can be punished for this. See the details below."];
  if (finding.included) return ["The chain has punished it: nothing is left to submit.", "If the key is yours: find the second signer before the other keys of the same machine follow."];
  if (finding.punishable === "yes" || finding.punishable === "unknown") {
    return ["If the key is yours: stop every machine that holds it or its sister keys, now.", "No block has included it yet. Check the proof, and submit it with the command below."];
  }
  return ["It cannot be punished any more. If the key is yours, still find out who signed."];
}
