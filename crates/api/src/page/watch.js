// Shows watched keys: one card for each group, and its keys when the card is opened.
"use strict";

const KEYS_AT_FIRST = 100;
const KEYS_AT_MOST = 1000;
const KEY_HEADS = ["Validator", "State on chain", "Last vote", "Missed in a row", "Voted", "Proposed", "Effectiveness", "Duty", "Alarms"];

const groups = new Map();

// Lists the alarms as the server has counted them.
function alarmList(alarms) {
  const more = alarms.is_partial ? "+" : "";
  return Object.entries(alarms.by_kind).map(([kind, n]) => `${kind.replaceAll("_", " ")}${n > 1 ? ` \u00d7 ${n}${more}` : ""}`).join(", ");
}

function percent(share) {
  return share === null ? "\u2013" : (share * 100).toFixed(1) + "\u202f%";
}

const SWITCHES = {
  ready: ["good", "kill switch ready"],
  ordered: ["wait", "kill switch ordered"],
  done: ["bad", "kill switch fired"],
  failed: ["bad", "kill switch FAILED"],
};

function switchPill(view) {
  const [state, text] = view ? SWITCHES[view.state] : ["none", "no kill switch"];
  return element("span", text, "pill " + state);
}

function heardText(heard) {
  if (heard === null) return "not yet known";
  const since = heard.since === null ? "" : `, since ${heard.since.slice(11, 16)} UTC, by ${grouped(heard.peers)} peers`;
  return grouped(heard.heard) + since;
}

// Which keys are not heard first-hand, and what to do.
function unheardStory(heard) {
  if (heard === null || !heard.missing.length) return undefined;
  const shown = heard.missing.slice(0, 8).join(", ") + (heard.missing.length > 8 ? ", .." : "");
  const made = element("p", `Not heard first-hand: ${shown}. `, "warning");
  if (peeringFlags.length) {
    const to = link("#peering", "Have their nodes heard", "Options that have your nodes heard");
    to.addEventListener("click", () => (by("peering").open = true));
    made.append(to);
  }
  return made;
}

function switchStory(view) {
  if (!view || !view.finding) return undefined;
  const made = element("p", "Kill switch ordered " + view.ordered_at.slice(0, 10) + " " + view.ordered_at.slice(11, 23) + " because of ");
  made.append(link("v1/findings/" + view.finding, view.kind, `${view.kind}, the finding that fired the kill switch`));
  if (view.attempts > 1) made.append(`, ${view.attempts} attempts`);
  if (view.took_ms !== null) made.append(`; ${view.state} after ${grouped(view.took_ms)} ms`);
  if (view.state === "failed") made.append(" \u2014 stop the validator clients by hand.");
  if (view.state === "failed") made.className = "critical";
  return made;
}

function fact(name, value, className) {
  const made = element("div");
  made.append(element("dt", name), element("dd", value, className));
  return made;
}

// A card is made once and then updated, so that it stays open, and its settings stay.
function card(name) {
  const made = element("details", undefined, "group");
  const head = element("summary");
  const facts = element("dl", undefined, "facts");
  const story = element("div", undefined, "story");
  const tools = element("p", undefined, "tools");
  const missing = element("input");
  missing.type = "checkbox";
  const label = element("label");
  label.append(missing, " only keys that missed their last duty");
  tools.append(label);
  const scroll = element("div", undefined, "scroll");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", `Keys of ${name}`);
  const table = element("table");
  const heads = element("tr");
  for (const text of KEY_HEADS) {
    const th = element("th", text);
    th.scope = "col";
    heads.append(th);
  }
  const thead = element("thead");
  thead.append(heads);
  const body = element("tbody");
  table.append(thead, body);
  scroll.append(table);
  const more = element("button", "Show more keys");
  more.type = "button";
  made.append(head, tools, scroll, more);
  const group = { made, head, facts, story, body, missing, more, name, wanted: KEYS_AT_FIRST };
  // The status shows if the server does not answer.
  const again = () => showKeys(group).catch(() => {});
  made.addEventListener("toggle", again);
  missing.addEventListener("change", again);
  more.addEventListener("click", () => {
    group.wanted = KEYS_AT_MOST;
    again();
  });
  return group;
}

function showGroup(view) {
  if (!groups.has(view.name)) groups.set(view.name, card(view.name));
  const group = groups.get(view.name);
  const hasFired = view.kill_switch && view.kill_switch.state !== "ready";
  group.made.className = "group " + (hasFired ? "critical" : view.alarms.worst || (view.missing ? "warning" : ""));
  const title = element("h3", view.name);
  title.append(" ", switchPill(view.kill_switch));
  group.facts.replaceChildren(
    fact("Keys", grouped(view.validators) + (view.unknown_keys ? ` + ${grouped(view.unknown_keys)} not on chain yet` : "")),
    fact("Missed their last duty", grouped(view.missing), view.missing ? "warning" : ""),
    fact("Most misses in a row", grouped(view.missed_in_a_row), view.missed_in_a_row ? "warning" : ""),
    fact("Effectiveness", percent(view.effectiveness)),
    fact("Heard first-hand", heardText(view.first_hand), view.first_hand !== null && view.first_hand.heard < view.validators ? "warning" : ""),
    fact("Alarms", alarmList(view.alarms) || "none", view.alarms.worst ?? ""),
  );
  const story = switchStory(view.kill_switch);
  group.story.replaceChildren(...[story, unheardStory(view.first_hand)].filter((one) => one));
  group.head.replaceChildren(title, group.facts, group.story);
  return group;
}

function keyRow(key) {
  const row = element("tr");
  const cell = (text, className) => row.append(element("td", text, className));
  const index = element("td");
  const shown = element("abbr", key.index);
  shown.title = key.pubkey;
  index.append(shown);
  row.append(index);
  cell(key.state.replaceAll("_", " "), key.state.includes("slashed") ? "critical" : "");
  cell(key.last_vote === null ? "\u2013" : "slot " + grouped(key.last_vote));
  cell(grouped(key.missed_in_a_row), key.missed_in_a_row ? "warning" : "");
  cell(`${key.voted} of ${key.duties}`);
  cell(key.proposals ? `${key.proposed} of ${key.proposals}` : "\u2013", key.proposed < key.proposals ? "warning" : "");
  cell(percent(key.effectiveness));
  cell(key.duty);
  cell(alarmList(key.alarms), key.alarms.worst ?? "");
  return row;
}

async function showKeys(group) {
  if (!group.made.open) return;
  const missed = group.missing.checked ? "&missed_in_a_row=1" : "";
  const answer = await fetch(`v1/watch/validators?group=${encodeURIComponent(group.name)}&limit=${group.wanted}${missed}`);
  if (!answer.ok) throw new Error("watched keys " + answer.status);
  const page = await answer.json();
  group.body.replaceChildren(...page.validators.map((key) => keyRow(key)));
  if (!page.validators.length) {
    const none = element("td", group.missing.checked ? "No key missed its last duty." : "No key of this group is on chain yet.");
    none.colSpan = KEY_HEADS.length;
    const row = element("tr");
    row.append(none);
    group.body.append(row);
  }
  group.more.hidden = page.next === null || group.wanted === KEYS_AT_MOST;
}

async function watched() {
  const answer = await fetch("v1/watch/groups");
  // Watched keys are not shown on this address.
  if (answer.status === 403) return;
  if (!answer.ok) throw new Error("groups " + answer.status);
  const views = (await answer.json()).groups;
  by("watched").hidden = !views.length;
  const shown = views.map(showGroup);
  const list = by("groups");
  if (shown.length !== list.childElementCount || shown.some((group, nth) => list.children[nth] !== group.made)) {
    list.replaceChildren(...shown.map((group) => group.made));
  }
  await Promise.all(shown.map(showKeys));
}
