// What happened, and what to do about it, in sentences.
import { between, clock, grouped, listed, millis, plural, quoted, span, words } from "./text.js";

export const OFFENCES = ["double_vote", "surround_vote", "double_proposal"];
export const ANOMALIES = [
  "slashing_wave", "clock_skew", "own_clock", "participation_drop", "finality_delay", "head_split", "checkpoint_split",
  "competing_blocks", "deep_reorg", "stale_votes", "payload_status_split", "missed_proposals", "late_blocks", "client_dominance", "sync_storm",
  "subnet_silent", "unpunished_offence", "blind_spot", "missed_duties", "flapping_keys", "dormant_key_signed",
  "second_signer", "signed_elsewhere", "two_origins", "kill_switch_failed", "signs_after_stop", "proof_not_confirmed", "equivocation_not_slashable",
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
  kill_switch_failed: "A kill switch that failed",
  signs_after_stop: "Keys that sign after the stop",
  proof_not_confirmed: "A proof that was not confirmed",
  equivocation_not_slashable: "A contradiction that no rule punishes",
};

export const kindName = (kind) => KIND_NAMES[kind] ?? words(kind);

// The name of an incident. One kind has two.
export function incidentName(incident) {
  if (incident.kind === "subnet_silent" && incident.details.subnets === "all") return "Nothing is heard";
  return kindName(incident.kind);
}

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
      "Start nothing again before slashwatch audit has compared your protection database with what the network has seen, and slashwatch preflight says SAFE, both with --validators for all of your keys.",
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
      "If your validators voted on a branch that most stake has left: stop them before their node changes to the one that is followed now. A vote from the old source surrounds what they signed.",
      { text: "See ", link: ["/heads", "which branches there are, and who is on them"], after: "." },
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
    now: i.state === "closed"
      ? ["Keys that voted ahead of the clock are in danger until the last epoch that they voted for is over: do not start them before."]
      : ["Check your machines' clocks and time servers.", "Stop a validator client before you set its clock back: it will contradict what it signed too early."],
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
    what: `${d.two_justified_checkpoints ? "Two branches justify different checkpoints" : "Votes name checkpoints that exclude each other"}. ${d.would_surround_by_joining_the_other_side ? `${plural(d.would_surround_by_joining_the_other_side, "validator")} cannot change sides without a surround vote.` : "Nobody who changed sides now would surround a vote, as far as is known."}`,
    now: [
      "Do not let validators change sides: stop them before their node does.",
      { text: "See ", link: ["/heads", "which branch your keys voted on"], after: ". Do not start them on the other branch before it has justified what they signed as source, or a newer epoch." },
    ],
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
    what: `${d.missed} of ${plural(d.of_slots, "slot")} had no block. Missing by client: ${clients(d.blocks_missing_by_client) || "not known"}.`,
    now: ["If it is your client or relay, check your nodes' logs for the proposals of these slots."],
  }),
  late_blocks: (i, d) => ({
    what: `${d.late} of ${plural(d.of_blocks, "block")} came after the votes. By client: ${clients(d.late_by_client) || "not known"}.`,
    now: ["If these are your proposers, check relays and block building times."],
  }),
  client_dominance: (i, d) => ({ what: `${d.client} has ${d.percent}\u202f%.`, now: ["One bug in it could decide the chain. Consider another client."] }),
  sync_storm: (i, d) => ({
    what: `${d.far_behind} of ${plural(d.peers, "peer")} ${String(d.far_behind) === "1" ? "is" : "are"} far behind. By client: ${clients(d.far_behind_by_client)}.`,
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
  kill_switch_failed: (i, d) => ({
    what: `The order to stop group ${d.group} did not stop all that it should${i.state === "closed" ? "; it is over now" : ""}.`,
    now: i.state === "closed" ? [] : ["Stop the group's validator clients by hand, and see that nothing starts them again.", "The log and slashwatch inspect say what became of each client."],
  }),
  signs_after_stop: (i, d) => ({
    // The incident has the number of the last alert. How many sign now is told in one place.
    what: `After the stop of group ${d.group} keys of it signed, the first in slot ${grouped(d.since)}; ${d.validators.slice(0, 6).join(", ")} ${d.validators.length === 1 ? "is" : "are"} among them.`,
    now: i.state === "closed" ? [] : [
      { text: "A machine that the kill switch does not reach signs. Find it and switch it off. ", link: ["/watch", "How many keys sign now"], after: "." },
      "Start nothing before.",
    ],
  }),
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

// ---- What is mine

// Served by this program itself, so that it is there in a closed network too.
const RESTART = "/docs/restart.md";
// An offence that is older than this is still told, but nothing has to be stopped at once.
const ACUTE_MS = 7 * 86400000;

export const SWITCHES = { ready: "ready", ordered: "ordered", done: "has fired", failed: "FAILED: stop the machines by hand", dry: "made a dry run only: nothing was stopped" };

// The data directory in a command. Only readers on the same machine see its path; for others the
// capitals stand for it.
export const dataDir = (status) => (status?.data_dir ? quoted(status.data_dir) : "DATA_DIR");

// The reader's groups, sorted by what is known of them: `hit` did something critical themselves,
// `stopped` did not but their kill switch has fired, `earlier` did it long ago. Those of `armed`
// did it before their kill switch was made ready again, and nothing since.
export function sorted(groups, status) {
  const isFired = (group) => Boolean(group.kill_switch) && group.kill_switch.state !== "ready";
  const isAcute = (group) => group.offences.newest && !group.is_armed_again && (status.recording || isFired(group) || Date.now() - Date.parse(group.offences.newest.at) < ACUTE_MS);
  const hit = groups.filter(isAcute);
  return {
    hit,
    stopped: groups.filter((group) => !hit.includes(group) && isFired(group)),
    earlier: groups.filter((group) => !hit.includes(group) && !group.is_armed_again && group.offences.newest),
    armed: groups.filter((group) => group.is_armed_again),
  };
}

// "20 of 20 keys"
export const keysHit = (group) => `${group.offences.is_partial ? "at least " : ""}${grouped(group.offences.keys)} of ${plural(group.validators, "key")}`;

const INCIDENT_KINDS = new Set(Object.keys(INCIDENTS));
// What kinds of alarms a group has. Offences of keys are not counted: a key may have hundreds.
export function alarmKinds(alarms) {
  return Object.entries(alarms.by_kind).map(([kind, n]) => (INCIDENT_KINDS.has(kind) && n > 1 ? `${kindName(kind).toLowerCase()} × ${grouped(n)}` : kindName(kind).toLowerCase())).join(", ");
}

const DID = {
  double_vote: (who) => `${who} signed two different votes`,
  surround_vote: (who) => `${who} signed a vote that surrounds another of its own`,
  double_proposal: (who) => `${who} signed two different blocks`,
  second_signer: (who) => `A second machine signs with ${who.replace("V", "v")}`,
  dormant_key_signed: (who) => `${who} signed although it should not`,
};

// What the reader's own keys did, and the finding to look at: the latest.
export function ownOffence(hit) {
  const latest = hit.reduce((one, other) => (one.offences.newest.at < other.offences.newest.at ? other : one));
  const { finding, kind, validator, at } = latest.offences.newest;
  const keys = hit.reduce((sum, group) => sum + group.offences.keys, 0);
  const who = `Validator ${validator} (${latest.name})`;
  const text = keys > 1 && OFFENCES.includes(kind) ? `${grouped(keys)} of your keys contradicted themselves, the last one validator ${validator} (${latest.name})` : DID[kind]?.(who) ?? `${kindName(kind)}: ${who}`;
  return { finding, kind, at, text };
}

// Labels that a group shares with other groups, or with the members of an incident.
export function sharedLabels(group, hit, incident) {
  const theirs = new Set(hit.filter((one) => one.name !== group.name).flatMap((one) => one.labels ?? []));
  for (const { what, value } of incident?.shared ?? []) {
    if (what === "client") theirs.add("client=" + value);
    else if (what.startsWith("label:")) theirs.add(`${what.slice(6)}=${value}`);
  }
  return (group.labels ?? []).filter((label) => theirs.has(label));
}

// The groups of `all` that are not hit and share a label with those that are, by what they share.
// Whoever has an offence on record is hit, whatever this finding or incident is about.
function kin(all, hit, incident) {
  const by = new Map();
  for (const group of all) {
    if (group.offences?.newest || hit.some((one) => one.name === group.name)) continue;
    const labels = sharedLabels(group, hit, incident).join(", ");
    if (labels) by.set(labels, [...(by.get(labels) ?? []), `${group.name} (${plural(group.validators, "key")})`]);
  }
  return [...by].map(([labels, names]) => ({ labels, names: names.join(", ") }));
}

const SWITCH_WORDS = {
  none: (names) => `No kill switch is configured for ${names}: stop by hand.`,
  unknown: (names) => `Whether a kill switch has stopped ${names} is not known, because this is a recording: see that the machines are off.`,
  ready: (names) => `The kill switch of ${names} has not fired, or was made ready again: see that the machines are off.`,
  ordered: (names) => `The kill switch of ${names} is at work.`,
  done: (names) => `The kill switch of ${names} says done: see that the machines are off.`,
  failed: (names) => `The kill switch of ${names} FAILED: stop by hand.`,
  dry: (names) => `The kill switch of ${names} made a dry run only and stopped nothing: stop by hand.`,
};

// The state of a group's kill switch. A recording has no configuration, so what it has not recorded
// of a switch is not known. A dry run stops nothing, whatever it answered.
export function switchState(group, status) {
  const one = group.kill_switch;
  if (!one) return status?.recording ? "unknown" : "none";
  return one.dry_run && one.state !== "ready" ? "dry" : one.state;
}

// "kill switch has fired", for a list of groups.
export function switchName(group, status) {
  const state = switchState(group, status);
  if (state === "none") return "no kill switch";
  return state === "unknown" ? "kill switch not known: this is a recording" : `kill switch ${SWITCHES[state] ?? state}`;
}

function switchWords(groups, status) {
  const by = new Map();
  for (const group of groups.filter((one) => one.kill_switch !== undefined)) {
    const state = switchState(group, status);
    by.set(state, [...(by.get(state) ?? []), group.name]);
  }
  return ["failed", "dry", "none", "unknown", "ready", "ordered", "done"].filter((state) => by.has(state)).map((state) => SWITCH_WORDS[state](by.get(state).join(", "))).join(" ");
}

// "epoch 45 (2026-11-29 16:20:00 UTC)": the first for which none of these groups has voted, and the
// one before which two epochs without a vote of theirs are over.
function freeEpoch(groups) {
  const known = groups.map((group) => group.signed).filter((signed) => signed?.highest_target);
  if (!known.length) return null;
  const last = known.reduce((one, other) => (BigInt(one.highest_target) < BigInt(other.highest_target) ? other : one));
  const epoch = (n, time) => `epoch ${grouped(BigInt(last.highest_target) + n)} (${clock(time)})`;
  return { after: grouped(last.highest_target), first: epoch(1n, last.free_from), restart: epoch(3n, last.restart_from) };
}

// The highest source epoch that these groups have signed, or null.
function highestSource(groups) {
  const known = groups.map((group) => group.signed?.highest_source).filter(Boolean).map(BigInt);
  return known.length ? grouped(known.reduce((one, other) => (one < other ? other : one))) : null;
}

// What to do besides stopping, by what went wrong.
function causeSteps(cause, own) {
  const names = own.map((one) => one.name).join(", ");
  if (cause === "clocks") {
    const free = freeEpoch(own);
    return [
      "Mend the clocks while the clients are stopped: a client whose clock is set back contradicts what it signed ahead.",
      free ? `They have voted up to epoch ${free.after}. Do not start before ${free.first}.` : "Do not start before real time has passed the last epoch that they voted for.",
    ];
  }
  if (cause === "return_from_a_branch") {
    const source = highestSource(own);
    return [`Do not change sides: keep the keys off until the branch that they would vote on has justified ${source ? `epoch ${source}, the highest source that they signed,` : "the source that they signed,"} or a newer epoch.`];
  }
  if (cause === "surround") return ["Find out which it is: a clock that ran ahead, a node that came back from another branch, or a second machine with another record."];
  if (cause === "payload_status") return ["Let each key vote with one beacon node only, and look for a client that asks several nodes."];
  if (cause === "one_client") return ["Read what the client's team says before you start it again."];
  return [`Find the second machine that holds keys of ${names}: a spare that came up, a failover, an old or restored one. Or one machine has lost its record.`];
}

// How many keys of a group are lost, because they contradicted themselves: "all", a number, or null
// if that is not known.
export function lostKeys(group) {
  const { lost, is_partial: isPartial } = group.offences ?? {};
  if (lost === undefined) return null;
  return lost > 0 && lost === group.validators && !isPartial ? "all" : lost;
}

// A command with the client's protection database, one for each group, for the keys that are not
// lost.
function withExport(command, own, status) {
  const keys = (group) => group.startable ?? (group.name ? `@KEYS.csv,group=${quoted(group.name)}` : "KEYS");
  return (own.length ? own : [{}]).map((group) => `slashwatch ${command} --data-dir ${dataDir(status)} --interchange EXPORT.json --validators ${keys(group)}`).join("\n");
}

// From machines that are stopped to the first safe vote, in the order of docs/restart.md.
function restartSteps(own, status) {
  const names = (groups) => groups.map((group) => group.name).join(", ");
  const dead = own.filter((group) => lostKeys(group) === "all");
  const left = own.filter((group) => lostKeys(group) !== "all");
  const nothing = dead.length > 0 && `All keys of ${names(dead)} are lost: each has contradicted itself. Nothing of ${names(dead)} may start again; keep the machines off.`;
  const afterwards = { text: "Submit no proof against your own keys. ", link: [RESTART, "What to do afterwards"], after: "." };
  if (nothing && !left.length) return [nothing, afterwards];
  const fired = left.filter((group) => group.kill_switch && group.kill_switch.state !== "ready");
  const rearm = fired.map((group) => `slashwatch killswitch rearm ${quoted(group.name)} --data-dir ${dataDir(status)}`).join("\n");
  const some = left.filter((group) => lostKeys(group));
  const isLeftOut = (group) => !lostKeys(group) || group.startable;
  const lost = some.map((group) => `${grouped(lostKeys(group))} of ${plural(group.validators, "key")} of ${group.name}`).join(", ");
  const without = !some.length ? "" : ` ${lost} contradicted themselves and are lost: ${some.every(isLeftOut) ? "they are left out here" : "leave them out here"}, and must be left out of the client.`;
  const free = freeEpoch(left);
  return [
    ...(nothing ? [nothing] : []),
    { text: `Export the protection database of each stopped client (EXPORT.json) and compare it with what the network has seen.${without} Keys that CAN BE SLASHED are lost too.`, command: withExport("audit", left, status) },
    free ? `Wait two epochs after the last machine stopped (13 minutes on mainnet). Of these keys votes up to epoch ${free.after} are known: not before ${free.restart}.`
      : "Wait two epochs after the last machine stopped (13 minutes on mainnet).",
    { text: "Ask whether it is safe, beside the running watcher. Start nothing before this says SAFE.", command: withExport("preflight", left, status) },
    rearm ? { text: "When it says SAFE, and not before: make the kill switch ready again. With --config FILE in place of --data-dir its lock file goes too.", command: rearm }
      : "When it says SAFE, see that the kill switch, if there is one, is ready.",
    { text: "Start one machine only: ", link: [RESTART, "the steps of a restart"], after: ". Submit no proof against your own keys." },
  ];
}

// What to do when it is mine. `own` has a row for each of the reader's groups that is hit, `all`
// for each that there is.
export function nowIfMine(own, { all = own, cause, incident, status } = {}) {
  const names = own.map((one) => one.name).join(", ");
  const because = own.some((one) => one.signed?.ahead) ? "clocks" : cause;
  const known = all.filter((group) => group.offences);
  const others = sorted(known, status ?? {}).hit.filter((group) => !own.some((one) => one.name === group.name));
  return [
    `Stop every machine that holds a key of ${names}, now. ${switchWords(own, status)}`,
    ...(others.length ? [`Hit too, whatever this one is about: ${others.map((group) => `${group.name} (${keysHit(group)})`).join(", ")}. See that those machines are off.`] : []),
    ...kin(all, [...own, ...others], incident).map(({ labels, names: near }) => `Not hit, but shares ${labels} with them: ${near}. Stop it too, and ask later.`),
    ...causeSteps(because, own),
    ...restartSteps(own, status),
  ];
}

// What a finding says about why it happened.
export const causeOfKind = (kind) => (kind === "surround_vote" ? "surround" : "same_keys_in_two_places");

// What to do about a wave of others.
export function nowIfNotMine(incident, all) {
  const members = (labels) => {
    const shared = incident.shared?.find((one) => labels.split(", ").includes(one.what === "client" ? "client=" + one.value : `${one.what.slice(6)}=${one.value}`));
    return shared ? `${grouped(shared.members)} of ${plural(incident.validators, "member")}` : "members";
  };
  const near = kin(all, [], incident);
  if (!near.length) return ["Nothing has to be stopped: none of your groups is in it, and none shares a label with its members.", { text: "Read ", link: ["/incidents/" + incident.id, "what is found out about the cause"], after: "." }];
  return [
    ...near.map(({ labels, names }) => `Not in it, but shares ${labels} with ${members(labels)}: ${names}.`),
    "Find out whether the cause is yours too. Until you know, be ready to stop these groups.",
  ];
}

// Own keys that have signed what they cannot take back, although nothing has happened yet: what
// to tell and to do, `groups` being those that are concerned, and what is not known.
export function dangers(groups, incidents, status) {
  const open = (kind) => !status.recording && incidents.some((one) => one.kind === kind && isOpen(one));
  const found = [];
  const counted = (count) => {
    const some = groups.filter((group) => count(group));
    return { some, names: some.map((group) => group.name).join(", "), keys: some.map((group) => `${plural(count(group), "key")} of ${group.name}`).join(", ") };
  };
  const ahead = counted((group) => group.signed?.ahead);
  if (ahead.some.length) {
    const free = freeEpoch(ahead.some);
    found.push({
      groups: ahead.some,
      text: `${ahead.keys} voted ahead of the clock, until epoch ${free.after}: do not move them.`,
      now: [`Stop the clients of ${ahead.names} first, then mend their clocks. Do not start before ${free.first}.`],
    });
  }
  const stuck = counted((group) => group.cannot_change_sides);
  if (stuck.some.length) {
    found.push({
      groups: stuck.some,
      text: `${stuck.keys} voted on the side with the newer source, and cannot join the other one without a surround vote: do not move them.`,
      now: [`Do not let the keys of ${stuck.names} change sides: stop their clients before their node does.`],
    });
  }
  const isUnheard = groups.some((group) => !group.signed?.voted);
  const isPartly = groups.some((group) => group.signed && group.signed.voted < group.validators);
  const unknown = [];
  const [isSplit, isSkewed] = [open("checkpoint_split"), open("clock_skew")];
  if (isSplit && isUnheard) unknown.push("Not known: check which branch your keys voted on.");
  if (isSkewed && isUnheard) unknown.push("Not known: check that your machines' clocks are right.");
  return { found, unknown, isOpen: isSplit || isSkewed, isPartly };
}

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
const BEFORE_OTHERS = { slashing_wave: 2, checkpoint_split: 1, clock_skew: 1 };
const GROWTH = { growing: 2, open: 1 };
// The incident that matters most: open before over, critical before warning, a wave of slashings
// and what leads to one before anything else, growing before waning, then the latest.
export function foremost(incidents) {
  const rank = (i) => [isOpen(i) ? 1 : 0, WEIGHT[i.severity] ?? 0, BEFORE_OTHERS[i.kind] ?? 0, GROWTH[i.state] ?? 0, Number(i.last_slot)];
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

// `own` are the reader's groups that have the key, `all` are all of them.
export function whatNow(finding, own, { all, incident, status } = {}) {
  const apart = finding.details?.apart_ms;
  if (finding.kind === "second_signer") {
    const sisters = (finding.details?.watched_keys_with_the_same_label ?? []).length;
    return [
      `Two machines sign with validator ${finding.validator?.index}, or one lost its memory${apart === null || apart === undefined ? "" : ` (${millis(apart)} apart)`}.`,
      `Stop every machine that holds it${sisters ? ` or one of the other keys of ${own.map((one) => one.name).join(", ") || "its labels"}` : ""}, now. ${switchWords(own, status)}`,
      "The offence can be punished; the details link to it.",
      ...restartSteps(own, status),
    ];
  }
  if (finding.kind === "proof_not_confirmed") {
    return finding.details?.outcome === "not_genuine"
      ? ["Nothing was stopped. Check the proof by hand with slashwatch verify-proof and with a node of your own; stop the clients by hand if it holds."]
      : ["The clients were stopped. See why the second check did not work, and check the proof by hand."];
  }
  if (finding.kind === "kill_switch_failed" || finding.kind === "signs_after_stop") return ["Stop the group's validator clients by hand. The incident says whether it is over."];
  if (finding.evidence && own.length) {
    const suspected = incident?.details?.suspected_cause;
    const cause = suspected && suspected !== "unknown" ? suspected : causeOfKind(finding.kind);
    return nowIfMine(own, { all, cause, incident, status });
  }
  if (!finding.evidence) return finding.severity === "info" ? [] : ["Nobody can be punished for this. See the details below."];
  if (finding.included) return ["The chain has punished it: nothing is left to submit.", "If the key is yours: find the second signer before the other keys of the same machine follow."];
  if (finding.punishable === "yes" || finding.punishable === "unknown") {
    return [
      "If the key is yours: stop every machine that holds it or its sister keys, now.",
      all?.length ? "No block has included it yet. Check the proof, and submit it with the command below."
        : "It may be yours: submitting the proof slashes it. No block has included it yet; submit it only if the key is somebody else's.",
    ];
  }
  return ["It cannot be punished any more. If the key is yours, still find out who signed."];
}
