// Drives the page in Chromium, against the real binary.
//
// A recording of every offence (tests/data/gloas_12.e2s), a recorded slashing wave (the scenario of Staked) and a live demo are
// served. Checked are
//   - every view at 390, 1440 and 2560 pixels, light and dark: it has its heading, does not scroll sideways, writes no error on the
//     console, asks no other server, and axe-core finds no violation;
//   - the keyboard reaches every control of every view, and its place is visible;
//   - what a view says equals what the API says;
//   - links between views, the way back, filters and the search box;
//   - what it says about own keys: a single offence, a wave, groups that share a label, and danger before anything has happened;
//   - its commands work as they are copied;
//   - the token: asked for, refused with a reason, used for everything and never in an address, forgotten;
//   - with --big: an incident of 3 000 members and 15 000 findings, how long until it is there and how smoothly it scrolls.
// Ports are chosen by the system. Everything that is started is stopped, whatever happens.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import { createRequire } from "node:module";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({ options: { binary: { type: "string" }, modules: { type: "string" }, chromium: { type: "string" }, shots: { type: "string" }, big: { type: "boolean" } } });
const modules = createRequire(path.resolve(options.modules, "package.json"));
const { chromium } = modules("playwright-core");
const AXE = fs.readFileSync(modules.resolve("axe-core/axe.min.js"), "utf8");

const ROOT = path.resolve(import.meta.dirname, "../..");
const WIDTHS = [390, 1440, 2560];
const SCHEMES = ["light", "dark"];
const CHROMIUM = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "page-test-"));
const children = [];
const failures = [];
const started = Date.now();
const seconds = () => ((Date.now() - started) / 1000).toFixed(0).padStart(3) + " s";
const say = (text) => console.log(`${seconds()}  ${text}`);

async function check(name, work) {
  try {
    await work();
    say("ok      " + name);
  } catch (error) {
    failures.push(name);
    say(`FAILED  ${name}: ${error.message}`);
  }
}

// ---- Servers

function run(...args) {
  const done = spawnSync(options.binary, args, { cwd: ROOT, encoding: "utf8" });
  assert.equal(done.status, 0, `slashwatch ${args.join(" ")}: ${done.stderr}`);
  return done.stdout;
}

// Runs the command lines of the page, in the folder where a reader would have put the files.
function copied(commands, code = 0) {
  for (const line of commands.trim().split("\n")) {
    const [program, ...args] = line.split(" ");
    assert.equal(program, "slashwatch");
    const done = spawnSync(options.binary, args, { cwd: folder, encoding: "utf8" });
    assert.equal(done.status, code, `${line}: ${done.stdout}${done.stderr}`);
  }
}

// Starts a server and returns its address, which it prints.
function serve(...args) {
  const child = spawn(options.binary, args, { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
  children.push(child);
  let output = "";
  return new Promise((resolve, reject) => {
    child.stderr.on("data", (data) => (output += data));
    child.on("exit", (code) => reject(new Error(`slashwatch ${args[0]} ended with ${code}: ${output}`)));
    child.stdout.on("data", (data) => {
      output += data;
      const address = /page and API: (http:\/\/\S+)/.exec(output);
      if (address) resolve(address[1]);
    });
  });
}

async function json(base, address) {
  const answer = await fetch(base + address);
  assert.ok(answer.ok, `${address}: ${answer.status}`);
  return answer.json();
}

// ---- Browser

let browser;
const problems = [];

async function open(base, address, { width = 1440, scheme = "light" } = {}) {
  const page = await browser.newPage({ viewport: { width, height: 1000 }, colorScheme: scheme });
  page.setDefaultTimeout(15000);
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && problems.push({ text: `${address}: console: ${message.text()}`, url: message.location().url }));
  page.on("pageerror", (error) => problems.push({ text: `${address}: ${error.message}` }));
  page.on("request", (request) => new URL(request.url()).origin === base || problems.push({ text: `${address}: asks ${request.url()}` }));
  await page.goto(base + address);
  await loaded(page);
  return page;
}

// Until nothing of the view says that it is loading.
async function loaded(page) {
  await page.waitForSelector("h1");
  await page.waitForFunction(() => !/\bLoading\b/.test(document.querySelector("main").innerText));
}

// The browser reports each 404 itself. Allowed are those of `expected`, and of routes that this version does not have: then the view
// says so.
function noProblems(expected) {
  const isAllowed = ({ text, url }) => /\b404\b/.test(text) && (expected?.test(url) || !isRoute(url));
  assert.deepEqual(problems.splice(0).filter((one) => !isAllowed(one)), []);
}

const text = (page, selector = "main") => page.locator(selector).first().innerText();
const plain = (value) => value.replace(/[\s\u202f]+/g, " ");
const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, " ");
async function says(page, ...wanted) {
  const shown = plain(await text(page));
  for (const one of wanted) assert.ok(shown.includes(plain(String(one))), `${page.url()} does not say "${one}"`);
}

// All widths, light and dark, without loading the view again: only what CSS and observers change may differ.
async function looks(page, name) {
  for (const scheme of SCHEMES) {
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
    for (const width of WIDTHS) {
      await page.setViewportSize({ width, height: width < 500 ? 844 : 1000 });
      await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
      const where = `${width} ${scheme}`;
      if (options.shots) await page.screenshot({ path: path.join(options.shots, `${name}-${width}-${scheme}.png`), fullPage: true });
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${where}: scrolls sideways`);
      const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
      assert.deepEqual(violations.map((one) => `${where}: ${one.id}: ${one.nodes[0].html.slice(0, 200)}`), []);
    }
  }
  await page.setViewportSize({ width: 1440, height: 1000 });
}

// Presses Tab until the focus has been everywhere. A live view may be drawn anew meanwhile: what is
// gone at the end need not have been reached.
async function keyboard(page) {
  const wanted = await page.evaluate(() => {
    document.activeElement?.blur();
    const all = [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")];
    const reachable = all.filter((one) => !one.disabled && one.checkVisibility({ visibilityProperty: true }));
    reachable.forEach((one, n) => (one.dataset.wanted = n));
    return reachable.length;
  });
  const reached = new Set();
  for (let n = 0; n < 2 * wanted + 10 && reached.size < wanted; n++) {
    await page.keyboard.press("Tab");
    const { id, isSeen, html } = await page.evaluate(() => {
      const now = document.activeElement;
      const style = getComputedStyle(now);
      const isDrawn = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
      // A block of the tree is drawn in another colour instead.
      return { id: now.dataset.wanted, isSeen: isDrawn || now instanceof SVGElement, html: now.outerHTML.slice(0, 120) };
    });
    if (id === undefined) continue;
    assert.ok(isSeen, `no visible focus on ${html}`);
    reached.add(id);
  }
  const left = await page.evaluate(() => [...document.querySelectorAll("[data-wanted]")].map((one) => one.dataset.wanted));
  assert.ok(left.length * 2 > wanted, "the view was drawn anew");
  assert.deepEqual(left.filter((id) => !reached.has(id)), [], "controls that Tab does not reach");
}

async function view(base, address, name, heading, facts) {
  await check(name, async () => {
    const page = await open(base, address);
    try {
      assert.match(await text(page, "h1"), heading);
      assert.match(await page.title(), / · slashwatch$/);
      if (facts) await facts(page);
      await page.evaluate(AXE);
      await looks(page, name.replace(/[^a-z0-9]+/gi, "-"));
      await keyboard(page);
      noProblems();
    } finally {
      await page.close();
    }
  });
}

// ---- What the views must say

async function everyOffence(base) {
  const { findings } = await json(base, "/v1/findings?order=desc&limit=1000");
  const status = await json(base, "/v1/status");
  const of = (kind) => findings.find((finding) => finding.kind === kind);

  await view(base, "/", "now", /What was recorded/, async (page) => {
    await says(page, status.findings, "Is it mine?", "What now?");
    const rows = await page.locator("[aria-label='Table: Findings'] tbody tr").allInnerTexts();
    const expected = findings.slice(0, 50);
    assert.equal(rows.length, expected.length);
    expected.forEach((finding, n) => {
      for (const part of [finding.validator.index, finding.slot, finding.kind.replace("_", " ")]) assert.ok(rows[n].toLowerCase().includes(part), `row ${n}: ${rows[n]} without ${part}`);
    });
    // On a phone, who did it is on the screen.
    await page.setViewportSize({ width: 390, height: 844 });
    const cell = await page.locator("[aria-label='Table: Findings'] tbody tr td:nth-child(3)").first().boundingBox();
    assert.ok(cell.x + cell.width <= 390, "the validator is off the screen at 390 pixels");
  });

  for (const kind of ["double_vote", "surround_vote"]) {
    const finding = of(kind);
    const proof = await json(base, `/v1/findings/${finding.id}/evidence`);
    await view(base, "/findings/" + finding.id, kind, new RegExp(`vote of validator ${finding.validator.index}`), async (page) => {
      const [one, other] = [proof.attestation_1.data, proof.attestation_2.data];
      const differs = Object.entries({ Slot: "slot", Index: "index", Head: "beacon_block_root", Source: "source", Target: "target" })
        .filter(([, field]) => JSON.stringify(one[field]) !== JSON.stringify(other[field])).map(([name]) => name);
      const marked = await page.locator("tr.differs th").allInnerTexts();
      assert.deepEqual(marked.map((name) => name.replace(/\s*differs$/, "")), differs);
      const roots = await page.locator(".compare code").evaluateAll((all) => all.map((code) => code.title));
      for (const data of [one, other]) for (const root of [data.beacon_block_root, data.source.root, data.target.root]) assert.ok(roots.includes(root), root);
      await says(page, finding.id, `${one.source.epoch} to ${one.target.epoch}`, `${other.source.epoch} to ${other.target.epoch}`,
        `slashwatch verify-proof ${finding.evidence.json} --network ${status.data_dir}`, "$NODE/eth/v2/beacon/pool/attester_slashings", `Eth-Consensus-Version: ${finding.fork}`);
      const file = await page.locator("a", { hasText: "Proof as JSON" }).getAttribute("href");
      assert.deepEqual(await json(base, file), proof);
      fs.writeFileSync(path.join(folder, finding.evidence.json), JSON.stringify(proof));
      copied(await text(page, "[aria-label='Command that checks the proof']"));
      assert.equal(await page.locator(".fold").count(), 0, "a stranger's proof is not folded away");
      // Nobody has compared the key with the reader's, so it may be one of them.
      await says(page, "It may be yours: submitting the proof slashes it", "It may be yours: submitting slashes it.");
    });
  }

  const proposal = of("double_proposal");
  const proof = await json(base, `/v1/findings/${proposal.id}/evidence`);
  await view(base, "/findings/" + proposal.id, "double proposal", new RegExp(`Double proposal of validator ${proposal.validator.index}`), async (page) => {
    const roots = await page.locator(".compare code").evaluateAll((all) => all.map((code) => code.title));
    for (const header of [proof.signed_header_1.message, proof.signed_header_2.message]) for (const field of ["parent_root", "state_root", "body_root"]) assert.ok(roots.includes(header[field]), field);
    await says(page, `two different blocks for slot ${grouped(proposal.slot)}`, "$NODE/eth/v1/beacon/pool/proposer_slashings");
    if (await has(base, "/v1/slots/0")) {
      const slot = await json(base, "/v1/slots/" + proposal.slot);
      for (const block of slot.blocks) assert.ok(roots.includes(block.root), `root of block ${block.root}, as computed here`);
      await says(page, "Votes for it in its slot", slot.boost ? `because ${slot.boost.reason}` : "Before Gloas a double proposal does not change the proposer boost");
    }
  });

  const { index } = of("surround_vote").validator;
  await view(base, "/validators/" + index, "validator", new RegExp("Validator"), async (page) => {
    if (!(await has(base, "/v1/validators/0"))) return says(page, "not available in this version");
    const known = await json(base, "/v1/validators/" + index);
    await says(page, known.pubkey ?? "not known", "History", known.last_epoch);
    const cells = await page.locator("[aria-label='Table: Votes'] tbody tr.contradicts").count();
    assert.equal(cells, known.votes.filter((vote) => vote.contradicts).length);
  });
  await view(base, "/slots/" + proposal.slot, "slot", /^Slot/, async (page) => {
    if (!(await has(base, "/v1/slots/0"))) return says(page, "not available in this version");
    const slot = await json(base, "/v1/slots/" + proposal.slot);
    assert.equal(await page.locator("[aria-label='Table: Blocks'] tbody tr").count(), slot.blocks.length);
    await says(page, grouped(slot.voters), slot.is_double_proposal ? "double proposal" : "Blocks");
  });
  await view(base, "/epochs/" + proposal.epoch, "epoch", /^Epoch/, async (page) => {
    if (!(await has(base, "/v1/epochs/0"))) return says(page, "not available in this version");
    const epoch = await json(base, "/v1/epochs/" + proposal.epoch);
    assert.equal(await page.locator("[aria-label='Table: Slots of this epoch'] tbody tr").count(), epoch.slots.length);
  });
  await view(base, "/slashings", "slashings", /^Slashings/, async (page) => {
    if (!(await has(base, "/v1/slashings"))) return says(page, "not available in this version");
    const { slashings } = await json(base, "/v1/slashings?limit=50");
    const rows = await page.locator("[aria-label='Table: Proofs'] tbody tr").allInnerTexts();
    assert.equal(rows.length, slashings.length);
    slashings.forEach((row, n) => assert.ok(rows[n].includes(row.state), `${rows[n]}: ${row.state}`));
  });

  await check("links, filters, search", async () => {
    const page = await open(base, "/");
    await page.locator("[aria-label='Table: Findings'] tbody a").first().click();
    await page.waitForURL("**/findings/*");
    await loaded(page);
    assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1", "the heading has the focus after a link");
    await page.goBack();
    await loaded(page);
    assert.equal(new URL(page.url()).pathname, "/");
    await page.selectOption("select >> nth=0", "surround_vote");
    await page.waitForURL("**/?kind=surround_vote");
    await page.waitForFunction((n) => document.querySelectorAll("[aria-label='Table: Findings'] tbody tr").length === n, findings.filter((finding) => finding.kind === "surround_vote").length);
    const search = async (wanted, address) => {
      await page.fill("input[type=search]", wanted);
      await page.waitForSelector(".results a");
      await page.keyboard.press("Enter");
      await page.waitForURL("**" + address);
      await loaded(page);
    };
    await search(findings[0].id, "/findings/" + findings[0].id);
    await search("heads=none", "/?label=heads%3Dnone");
    await says(page, "No finding matches");
    await search(index, "/validators/" + index);
    await page.goto(base + "/watch");
    await loaded(page);
    await says(page, "No keys are watched");
    noProblems();
    await page.close();
  });
  await check("what does not exist is told", async () => {
    const page = await open(base, "/findings/0x" + "00".repeat(32));
    await says(page, "nothing is known");
    assert.equal((await fetch(base + "/nothing")).status, 404);
    const restart = await fetch(base + "/docs/restart.md");
    assert.equal(await restart.text(), fs.readFileSync(path.join(ROOT, "docs/restart.md"), "utf8"));
    await page.close();
    noProblems(/\/v1\/findings\/0x00/);
  });
}

async function wave(base) {
  const { incidents } = await json(base, "/v1/incidents");
  const incident = incidents.find((one) => one.kind === "slashing_wave");
  await view(base, "/incidents", "incidents", /^Incidents/, async (page) => {
    assert.equal(await page.locator("[aria-label='Table: Incidents'] tbody tr").count(), incidents.length);
    await says(page, "Slashing wave", incident.validators);
  });
  await view(base, "/incidents/" + incident.id, "incident", /^Slashing wave/, async (page) => {
    await says(page, `${incident.validators} validators signed contradicting messages`, `1 to 50 of ${incident.validators}`, incident.details.because[0].replaceAll("_", " "),
      `${grouped((Number(incident.penalty.initial_gwei) / 1e9).toFixed(1))} ETH`, "20 keys of acme-1", incident.id);
    const first = incident.details.first_message;
    assert.equal(await page.locator(`a[href='/findings/${first.finding}']`).count() > 0, true);
  });
  await check("the banner answers: what, whose, what now", async () => {
    const page = await open(base, "/");
    const banner = plain(await text(page, ".verdict"));
    for (const part of ["Slashing wave", `${incident.validators} validators`, "acme-1", "stop every machine"]) assert.ok(banner.includes(part), `${part} in ${banner}`);
    noProblems();
    await page.close();
  });
}

const now = async (base, address = "/") => {
  const page = await open(base, address);
  return { page, banner: plain(await text(page, ".verdict")) };
};
const holds = (shown, ...wanted) => wanted.forEach((one) => assert.ok(shown.includes(one), `"${one}" is not in: ${shown}`));
const lacks = (shown, ...unwanted) => unwanted.forEach((one) => assert.ok(!shown.includes(one), `"${one}" is in: ${shown}`));

const inOrder = (shown, wanted) => wanted.reduce((from, one) => {
  const at = shown.indexOf(one, from);
  assert.ok(at >= 0, `"${one}" does not come after what stands before it: ${shown}`);
  return at;
}, 0);
const RESTART_STEPS = ["Stop every machine", "Find the second machine", "slashwatch audit", "Wait two epochs", "slashwatch preflight", "When it says SAFE", "Start one machine only"];
const LOST_STEPS = ["Stop every machine", "Find the second machine", "All keys of acme-1 are lost", "Nothing of acme-1 may start again", "Submit no proof against your own keys"];
// The same group, six of whose keys are lost.
const someLost = (group) => (group.name === "acme-1" ? { ...group, offences: { ...group.offences, lost: 6 }, startable: "106-119" } : group);

// A wave that hits one group of three: acme-1. us-1 shares its operator, solo shares nothing.
async function ownWave(base, data) {
  const { groups } = await json(base, "/v1/watch/groups");
  const { incidents } = await json(base, "/v1/incidents");
  const incident = incidents.find((one) => one.kind === "slashing_wave");
  assert.deepEqual(groups.map((group) => [group.name, group.offences.keys]), [["acme-1", 20], ["solo", 0], ["us-1", 0]]);
  await check("a wave with own keys: whose, how many, who is next", async () => {
    const { page, banner } = await now(base);
    holds(banner, "20 of your keys contradicted themselves", "Slashing wave", "Yes: acme-1", "acme-1, 20 of 20 keys: ", "slashing wave", "kill switch not known: this is a recording",
      "Stop every machine that holds a key of acme-1, now.", "Whether a kill switch has stopped acme-1 is not known", "Not hit, but shares operator=acme with them: us-1 (10 keys)",
      "Find the second machine");
    lacks(banner, "Nothing.", "200+", "solo", "If one of these keys is yours", "No kill switch is configured", "slashwatch preflight");
    inOrder(banner, LOST_STEPS);
    assert.equal(await page.locator(`.verdict a[href='/findings/${groups[0].offences.newest.finding}']`).count(), 1);
    assert.equal(await page.locator(".verdict a[href$='/docs/restart.md']").count(), 1);
    noProblems();
    await page.close();
  });
  await check("a wave with some own keys: the commands leave out those that are lost", async () => {
    const page = await browser.newPage();
    await page.route(base + "/v1/watch/groups", async (route) => {
      const answer = await (await route.fetch()).json();
      return route.fulfill({ json: { ...answer, groups: answer.groups.map(someLost) } });
    });
    await page.goto(base + "/");
    await loaded(page);
    await page.waitForSelector(".verdict .answer");
    const banner = plain(await text(page, ".verdict"));
    holds(banner, "6 of 20 keys of acme-1 contradicted themselves and are lost: they are left out here");
    // The recording has the votes of these keys, so the epoch to wait for is known, and its time.
    assert.match(banner, /votes up to epoch \d+ are known: not before epoch \d+ \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)/);
    inOrder(banner, RESTART_STEPS);
    const [audit, preflight] = await page.locator(".verdict pre[aria-label='Command for this step']").allInnerTexts();
    assert.equal(preflight, `slashwatch preflight --data-dir ${data} --interchange EXPORT.json --validators 106-119`);
    assert.equal(await page.locator(".verdict button[aria-label='Copy: Command for this step']").count(), 2);
    assert.equal(audit, `slashwatch audit --data-dir ${data} --interchange EXPORT.json --validators 106-119`);
    const exported = spawnSync(options.binary, ["export", "interchange", "--data-dir", data, "--validators", "100-119"], { encoding: "utf8" });
    fs.writeFileSync(path.join(folder, "EXPORT.json"), exported.stdout);
    copied(audit);
    // No watcher runs.
    copied(preflight, 1);
    // A file that has lost half of its keys.
    const file = JSON.parse(exported.stdout);
    fs.writeFileSync(path.join(folder, "EXPORT.json"), JSON.stringify({ ...file, data: file.data.slice(10) }));
    copied(audit, 1);
    // On a phone all three answers begin on the first screen.
    await page.setViewportSize({ width: 390, height: 844 });
    const tops = await page.locator(".verdict h2").evaluateAll((all) => all.map((heading) => heading.getBoundingClientRect().bottom));
    assert.ok(tops.length === 3 && tops.every((bottom) => bottom < 844 - 40), `the answers begin at ${tops}`);
    noProblems();
    await page.close();
  });
  await view(base, "/incidents/" + incident.id, "own incident", /^Slashing wave/, async (page) => {
    await says(page, "20 of 20 keys of acme-1", "Not hit, but shares operator=acme with them: us-1 (10 keys)");
    const rows = await page.locator("[aria-label='Table: Own groups and this incident'] tbody tr").allInnerTexts();
    assert.deepEqual(rows.map((row) => plain(row).split(" ").slice(0, 4).join(" ")), ["acme-1 20 0 –", "us-1 0 10 operator=acme", "solo 0 5 nothing"]);
  });
  await view(base, "/findings/" + groups[0].offences.newest.finding, "own finding", /Double vote/, async (page) => {
    await says(page, "Submit it to a beacon node: not for your own keys");
    assert.equal(await page.locator("[aria-label='Command that submits the proof']").isVisible(), false, "it is folded away");
    await page.locator(".fold summary").click();
    await says(page, "Who submits this has your own validator slashed", "acme-1: kill switch not known: this is a recording");
    inOrder(plain(await text(page, ".verdict")), LOST_STEPS);
  });
  // The first page of who searches the own index.
  await view(base, "/validators/" + groups[0].offences.newest.validator, "own validator", /Validator/, async (page) => {
    const verdict = plain(await text(page, ".verdict"));
    holds(verdict, "Yes: acme-1", "acme-1: kill switch not known: this is a recording", "Submit no proof against your own keys.");
    lacks(verdict, "If it is yours");
    inOrder(verdict, LOST_STEPS);
  });
  await check("what is said of other groups is judged over the whole record", async () => {
    const page = await browser.newPage();
    await page.route(base + "/v1/watch/groups", async (route) => {
      const answer = await (await route.fetch()).json();
      const { offences } = answer.groups.find((group) => group.name === "acme-1");
      return route.fulfill({ json: { ...answer, groups: answer.groups.map((group) => (group.name === "us-1" ? { ...group, offences: { ...offences, keys: 10, lost: 10 } } : group)) } });
    });
    for (const address of ["/findings/" + groups[0].offences.newest.finding, "/validators/" + groups[0].offences.newest.validator]) {
      await page.goto(base + address);
      await loaded(page);
      await page.waitForSelector(".verdict ol.steps");
      const verdict = plain(await text(page, ".verdict"));
      holds(verdict, "Hit too, whatever this one is about: us-1 (10 of 10 keys).");
      lacks(verdict, "Not hit");
    }
    await page.close();
    noProblems();
  });
  await check("a wave costs its members no more than they have", async () => {
    const { page, banner } = await now(base, "/incidents/" + incident.id);
    const gwei = (name) => Number(incident.penalty[name]);
    const doubled = (gwei("initial_gwei") + gwei("correlation_gwei_if_doubled")) / 1e9;
    assert.ok(banner && doubled <= 32 * Number(incident.validators), `${doubled} ETH of ${incident.validators} validators`);
    await says(page, `Together if twice as much is slashed ${doubled >= 1000 ? grouped(doubled.toFixed(0)) : doubled >= 10 ? doubled.toFixed(1) : doubled.toFixed(3)} ETH`);
    await page.close();
    noProblems();
  });
  await check("pages of the book: links can be followed, and nothing is forbidden by the policy", async () => {
    const page = await browser.newPage();
    page.on("console", (message) => ["error", "warning"].includes(message.type()) && problems.push({ text: message.text(), url: message.location().url }));
    page.on("request", (request) => new URL(request.url()).origin === base || problems.push({ text: `asks ${request.url()}` }));
    await page.goto(base + "/docs/restart.md");
    assert.equal(await text(page, "h1"), "Restart after losing a record");
    await page.evaluate(AXE);
    await looks(page, "book");
    await page.setViewportSize({ width: 1440, height: 1000 });
    await page.locator("main a", { hasText: "lock file" }).first().click();
    await page.waitForURL("**/docs/watching.md#a-stop-that-sticks");
    assert.equal(await text(page, "[id='a-stop-that-sticks']"), "A stop that sticks");
    assert.match(await (await fetch(base + "/docs/restart.md")).text(), /^# Restart after losing a record/);
    await page.close();
    noProblems();
  });
  await check("a finding of a clock that ran ahead is in its incident", async () => {
    const page = await browser.newPage();
    // It was noticed after the finding, and its slots end before the finding's.
    await page.route(base + "/v1/incidents?limit=1000", (route) => route.fulfill({ json: { schema: 1, next: null, incidents: incidents.map((one) => ({ ...one, opened_at: "2999-01-01T00:00:00.000000000Z", last_slot: one.first_slot, closed_at: null })) } }));
    await page.goto(base + "/findings/" + groups[0].offences.newest.finding);
    await loaded(page);
    await page.waitForSelector(`a[href='/incidents/${incident.id}']`);
    await page.close();
    noProblems();
  });
  await check("one number of one thing", async () => {
    const page = await browser.newPage();
    const many = (from, n) => Array.from({ length: n }, (_, k) => String(from + k));
    const after = { state: "signing", since: "38", keys: 75, validators: many(100, 10) };
    const fired = { state: "failed", finding: groups[0].offences.newest.finding, kind: "double_vote", ordered_at: "2021-02-02T20:40:00.000000000Z", attempts: 1, took_ms: 56, answer: "done", held_back: null, after_stop: after };
    const first_hand = { heard: 0, since: null, peers: 0, missing: many(100, 64) };
    await page.route(base + "/v1/watch/groups", async (route) => {
      const { groups: all } = await (await route.fetch()).json();
      await route.fulfill({ json: { schema: 1, groups: all.slice(0, 1).map((group) => ({ ...group, validators: 75, kill_switch: fired, first_hand })) } });
    });
    await page.route(base + "/v1/incidents?limit=1000", async (route) => {
      const details = { group: "acme-1", labels: [], finding: fired.finding, since: "38", validators: many(100, 10), keys_signing: 46 };
      await route.fulfill({ json: { schema: 1, next: null, incidents: [{ ...incident, kind: "signs_after_stop", offences: null, penalty: null, state: "open", closed_at: null, details }] } });
    });
    await page.route(base + "/v1/participation?slots=64", (route) => route.fulfill({ json: { now_slot: "2", slots: [{ slot: "1", blocks: 1, seats: 10, voters: 20, participation: null, heads: 1, findings: 0 }, { slot: "2", blocks: 1, seats: 10, voters: 9, participation: 0.9, heads: 1, findings: 0 }] } }));
    await page.goto(base + "/watch");
    await loaded(page);
    const watch = plain(await text(page));
    holds(watch, "After the stop 100, 101, 102, 103, 104, 105, 106, 107 and 67 more still sign", "Not in earshot: 100, 101, 102, 103, 104, 105, 106, 107 and 67 more", "Keys sign nevertheless");
    lacks(watch, "failed after");
    await page.goto(base + "/");
    await loaded(page);
    const home = plain(await text(page));
    holds(home, "keys of it signed, the first in slot 38; 100, 101, 102, 103, 104, 105 are among them");
    lacks(home, "46 keys", "and 4 more");
    const tops = await page.locator("svg .bar").evaluateAll((bars) => bars.map((bar) => Number(bar.getAttribute("y"))));
    assert.ok(tops.length === 2 && tops.every((y) => y >= 10), `the bars begin at ${tops}, the chart at 10`);
    await page.close();
    noProblems();
  });
  await check("what is not known of own keys is not told as good", async () => {
    const page = await browser.newPage();
    const shown = async (change) => {
      await page.unrouteAll();
      for (const [address, alter] of Object.entries(change)) {
        await page.route(base + address, async (route) => route.fulfill({ json: alter(await (await route.fetch()).json()) }));
      }
      await page.goto(base + "/");
      await loaded(page);
      await page.waitForSelector(".verdict .answer");
      return plain(await text(page, ".verdict"));
    };
    const live = (status) => ({ ...status, recording: false, ready: true, readiness: { ...status.readiness, listening: true, advice: [] } });
    const quiet = (alter) => ({ groups: all }) => ({ groups: all.map((group) => ({
      ...group, alarms: { by_kind: {}, worst: null, is_partial: false }, offences: { keys: 0, lost: 0, is_partial: false, newest: null }, missing: 0, signed: { voted: group.validators, ahead: 0, highest_target: "44", free_from: "2030-01-01T10:20:00.000000000Z", restart_from: "2030-01-01T10:33:00.000000000Z" }, ...alter(group),
    })) });
    const open = (kind, details) => () => ({ incidents: [
      { ...incident, offences: undefined, id: "0x01", kind: "head_split", severity: "warning", state: "waning", closed_at: null, last_slot: "99", details: { sides: [] } },
      { ...incident, offences: undefined, id: "0x02", kind, severity: "warning", state: "growing", closed_at: null, details },
    ], next: null });
    const split = open("checkpoint_split", { would_surround_by_joining_the_other_side: 157, oldest_source: "3" });
    const change = (groupChange, incidentsNow) => ({ "/v1/status": live, "/v1/watch/groups": quiet(groupChange), "/v1/incidents?limit=1000": incidentsNow });
    const stuck = await shown(change((group) => ({ cannot_change_sides: group.name === "us-1" ? 8 : 0 }), split));
    holds(stuck, "Votes for different checkpoints, growing", "157 validators cannot change sides", "Not yet, but in danger: us-1", "8 keys of us-1 voted on the side with the newer source", "do not move them");
    lacks(stuck, "All quiet");
    const unheard = await shown(change(() => ({ signed: null, cannot_change_sides: null }), split));
    holds(unheard, "Not known: check which branch your keys voted on.");
    assert.equal(await page.locator(".answer.good").count(), 0);
    const free = await shown(change(() => ({ cannot_change_sides: 0 }), split));
    holds(free, "is known to be on the side that cannot come back");
    assert.equal(await page.locator(".answer.good").count(), 0);
    const ahead = await shown(change((group) => (group.name === "solo" ? { signed: { voted: 5, ahead: 4, highest_target: "44", free_from: "2030-01-01T10:20:00.000000000Z", restart_from: "2030-01-01T10:33:00.000000000Z" } } : {}), open("clock_skew", { percent_of_votes: 9, seconds_ahead: 600 })));
    holds(ahead, "Clocks that run ahead, growing", "4 keys of solo voted ahead of the clock, until epoch 44", "Do not start before epoch 45 (2030-01-01 10:20:00 UTC)");
    const calm = await shown(change(() => ({}), () => ({ incidents: [], next: null })));
    holds(calm, "All quiet: no incident is open.", "No. All quiet in 3 groups, 35 keys.", "Nothing.");
    const fired = (state) => ({ state, finding: null, kind: null, ordered_at: null, attempts: 1, took_ms: 1, answer: null, held_back: null });
    const kin = await shown(change((group) => (group.name === "us-1" ? { kill_switch: fired("failed") } : {}), () => ({ incidents: [], next: null })));
    holds(kin, "No offence of its own, but the kill switch has fired: us-1 (FAILED: stop it by hand)");
    lacks(kin, "Yes", "Nothing.", "All quiet in");
    const armed = await shown(change((group) => (group.name === "acme-1" ? { alarms: group.alarms, offences: group.offences, is_armed_again: true, kill_switch: { ...fired("ready"), armed_again_at: "2021-02-03T10:20:00.000000000Z" } } : {}), () => ({ incidents: [], next: null })));
    holds(armed, "No new offence of your 35 keys.", "The kill switch of acme-1 is armed again since", "Its last offence before that was");
    lacks(armed, "Yes", "Stop every machine", "All quiet in");
    const failed = await shown({ "/v1/watch/groups": ({ groups: all }) => ({ groups: all.map((group) => ({ ...someLost(group), kill_switch: group.name === "acme-1" ? fired("failed") : null })) }) });
    holds(failed, "The kill switch of acme-1 FAILED: stop by hand.");
    const dry = await shown({ "/v1/watch/groups": ({ groups: all }) => ({ groups: all.map((group) => ({ ...group, kill_switch: group.name === "acme-1" ? { ...fired("done"), dry_run: true } : null })) }) });
    holds(dry, "The kill switch of acme-1 made a dry run only and stopped nothing: stop by hand.");
    lacks(dry, "says done");
    inOrder(failed, [...RESTART_STEPS.slice(0, -1), "slashwatch killswitch rearm acme-1", ...RESTART_STEPS.slice(-1)]);
    await page.close();
  });
}

// None of the reader's groups is in the wave.
async function othersWave(base) {
  await check("a wave of others: does it concern me", async () => {
    const { page, banner } = await now(base);
    holds(banner, "Slashing wave", "No: none of your 5 keys is in it.", "none of your groups is in it");
    lacks(banner, "If one of these keys is yours", "Stop every machine");
    noProblems();
    await page.close();
  });
}

// One own key, one offence: no incident, and no "Nothing".
async function ownOffence(base) {
  await view(base, "/", "own offence", /What was recorded/, async (page) => {
    const banner = plain(await text(page, ".verdict"));
    holds(banner, "Validator 100 (acme-1) signed two different votes", "Yes: acme-1", "acme-1, 1 of 20 keys: double vote", "Stop every machine that holds a key of acme-1, now.");
    lacks(banner, "Nothing.", "All quiet");
    assert.equal(await page.locator(".verdict.critical").count(), 1);
  });
}

// The report loads nothing, fits every width, and its links lead to the proofs that it has.
async function report(data) {
  const file = path.join(folder, path.basename(data) + ".html");
  run("report", "--data-dir", data, "--out", file);
  await check(`the report of ${path.basename(data)}`, async () => {
    const page = await browser.newPage();
    page.on("request", (request) => /^(file|data):/.test(request.url()) || problems.push({ text: `the report asks ${request.url()}` }));
    await page.goto("file://" + file);
    await page.addScriptTag({ content: AXE });
    await looks(page, "report-" + path.basename(data));
    const targets = await page.locator("a[href^='#proof-']").evaluateAll((links) => links.map((link) => Boolean(document.getElementById(link.hash.slice(1)))));
    assert.ok(targets.length > 0 && targets.every(Boolean));
    const proof = await page.locator("a[download]").first().evaluate((link) => ({ name: link.download, json: decodeURIComponent(link.href.split(",").slice(1).join(",")) }));
    assert.ok(/^0x[0-9a-f]{64}\.json$/.test(proof.name) && (JSON.parse(proof.json).attestation_1 || JSON.parse(proof.json).signed_header_1));
    noProblems();
    await page.close();
  });
}

async function live(base) {
  await view(base, "/", "live now", /What happens now|What was recorded/, async (page) => {
    await page.waitForFunction(() => document.querySelectorAll("[aria-label='Table: Findings'] tbody tr").length > 0, null, { timeout: 40000 });
  });
  for (const [address, name, heading] of [["/heads", "heads", /^Heads/], ["/network", "network", /^The network/], ["/watch", "watch", /^Watched keys/]]) {
    await view(base, address, name, heading, async (page) => {
      if (name === "watch") {
        const { groups } = await json(base, "/v1/watch/groups");
        for (const group of groups) await says(page, group.name);
        await page.locator("summary", { hasText: "Keys of" }).first().click();
        await page.waitForSelector("[aria-label^='Table: Keys of'] tbody tr");
      }
      // Nothing is measured before the first whole epoch, and a share that is not known is not 0.
      const { coverage } = await json(base, "/v1/coverage");
      if (name === "network" && coverage.first_hand === null) assert.match(plain(await text(page)), /Stake heard first-hand not yet known/);
    });
  }
}

// What has ended is no alarm: nothing comes from a network that is not there any more.
async function ended(base) {
  await check("a demo that has ended is a recording", async () => {
    const until = Date.now() + 60000;
    while (!(await json(base, "/v1/status")).recording) {
      assert.ok(Date.now() < until, "it never ends");
      await new Promise((done) => setTimeout(done, 250));
    }
    const page = await open(base, "/");
    assert.match(await text(page, "h1"), /What was recorded/);
    assert.equal(await page.locator(".alarm").count(), 0);
    const { incidents } = await json(base, "/v1/incidents");
    assert.deepEqual(incidents.filter((one) => one.kind === "subnet_silent"), []);
    await page.goto(base + "/watch");
    await loaded(page);
    // The simulated keys go on signing, and once that is heard the switch counts as failed.
    await says(page, "because of a double vote");
    await page.goto(base + "/");
    await loaded(page);
    holds(plain(await text(page, ".verdict")), "Yes: staked", "The kill switch of staked ");
    noProblems();
    await page.close();
  });
}

// Everything of a server that answers nothing without a token.
async function token(base, data) {
  const made = (name, ...more) => run("token", "new", "--data-dir", data, "--scope", "read", "--name", name, ...more).match(/slashwatch_[0-9a-f]+/)[0];
  const [good, other] = [made("page"), made("other")];
  run("token", "revoke", "other", "--data-dir", data);
  await check("without a token the page asks for one, and the browser does not", async () => {
    const asked = [];
    const page = await browser.newPage();
    page.setDefaultTimeout(15000);
    page.on("request", (request) => asked.push(request));
    page.on("pageerror", (error) => problems.push({ text: error.message }));
    await page.goto(base + "/slashings");
    await page.waitForSelector("form.token input");
    assert.equal(await text(page, "h1"), "A token is needed");
    await page.evaluate(AXE);
    await looks(page, "token");
    await keyboard(page);
    const input = page.locator("form.token input");
    const refused = async (value, reason) => {
      await input.fill(value);
      await page.keyboard.press("Enter");
      await page.waitForFunction((wanted) => document.querySelector("form.token [role=alert]").innerText.includes(wanted), reason);
    };
    await refused("", "the field is empty");
    await refused("a token", "this is no token");
    await refused(other, "wrong or was revoked");
    assert.equal(await page.evaluate(() => sessionStorage.length), 0, "a refused token is not kept");
    await input.fill(`  ${good} `);
    await page.keyboard.press("Enter");
    await page.waitForSelector("[aria-label='Table: Proofs'] tbody tr");
    await page.waitForFunction(() => document.querySelector("footer").innerText.includes("Token page shows what everybody may see."));
    // All that is asked from now on is allowed, and no address has the token.
    await page.locator("nav a", { hasText: "Incidents" }).click();
    await loaded(page);
    assert.match(await text(page, "h1"), /^Incidents/);
    await page.goto(base + "/");
    await page.waitForSelector("[aria-label='Table: Findings'] tbody tr");
    const [file] = await Promise.all([page.waitForEvent("download"), page.locator("footer a", { hasText: "findings as JSON" }).click()]);
    assert.equal(file.suggestedFilename(), "findings.json");
    assert.ok(JSON.parse(fs.readFileSync(await file.path(), "utf8")).findings.length > 0);
    for (const request of asked) assert.ok(!request.url().includes(good) && !request.url().includes(other), request.url());
    assert.ok(asked.some((request) => request.headers().authorization === "Bearer " + good));
    // It is this tab's alone.
    const second = await (await browser.newContext()).newPage();
    await second.goto(base + "/");
    await second.waitForSelector("form.token input");
    await second.context().close();
    // A token that is revoked while it is used: the page says so, and forgets it.
    await page.locator("footer button", { hasText: "Forget it" }).click();
    await page.waitForSelector("form.token input");
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    await page.evaluate((token) => sessionStorage.setItem("slashwatch-token", token), other);
    await page.reload();
    await page.waitForFunction(() => document.querySelector("h1")?.innerText === "The token is not accepted");
    assert.match(await text(page, "form.token"), /wrong or was revoked/);
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    await page.close();
    noProblems();
  });
}

// The event stream of a live watcher, whose connections are lost and come back.
async function reconnects(base) {
  const sockets = new Set();
  const between = net.createServer((near) => {
    const far = net.connect(Number(new URL(base).port), "127.0.0.1");
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on("error", () => {}).on("close", () => (near.destroy(), far.destroy(), sockets.delete(socket)));
    }
    near.pipe(far).pipe(near);
  });
  await new Promise((done) => between.listen(0, "127.0.0.1", done));
  await check("the event stream goes on after the last event", async () => {
    const page = await browser.newPage();
    page.setDefaultTimeout(40000);
    const after = [];
    page.on("request", (request) => new URL(request.url()).pathname === "/v1/events" && after.push(Number(request.headers()["last-event-id"])));
    await page.goto(`http://127.0.0.1:${between.address().port}/`);
    const isLive = () => page.waitForFunction(() => document.querySelector(".feed")?.innerText === "live updates");
    await isLive();
    for (const socket of sockets) socket.destroy();
    await page.waitForFunction(() => document.querySelector(".feed").innerText.includes("interrupted"));
    await isLive();
    const { findings } = await json(base, "/v1/status");
    assert.equal(after.length, 2);
    assert.ok(after[0] <= after[1] && after[1] <= findings, `${after} of ${findings}`);
    await page.close();
  });
  between.close();
}

// 3 000 validators that each sign twice in five epochs. The page must stay usable.
async function big(data) {
  const scenario = path.join(folder, "big.toml");
  const acts = [24, 32, 40, 48, 56].map((slot) => `[[acts]]\ndeed = "double_vote"\nfirst = 100\nn = 3000\nfrom = ${slot}\n`);
  fs.writeFileSync(scenario, `seed = 3000\nvalidators = 4096\nslots = 72\nslot_ms = 12000\noperator = [100, 3000]\n${acts.join("")}`);
  run("simulate", scenario, "--out", path.join(folder, "big.e2s"));
  run("replay", path.join(folder, "big.e2s"), "--data-dir", data);
  say("15 000 findings are recorded");
  const base = await serve("serve", "--data-dir", data, "--listen", "127.0.0.1:0");
  await check("an incident of 3 000 members stays fluent", async () => {
    const { incidents } = await json(base, "/v1/incidents");
    const incident = incidents.filter((one) => one.kind === "slashing_wave").sort((a, b) => Number(b.validators) - Number(a.validators))[0];
    const { findings } = await json(base, "/v1/status");
    const page = await browser.newPage({ viewport: { width: 1440, height: 1000 } });
    page.setDefaultTimeout(60000);
    await page.addInitScript(() => {
      globalThis.tasks = [];
      new PerformanceObserver((list) => globalThis.tasks.push(...list.getEntries().map((one) => one.duration))).observe({ type: "longtask", buffered: true });
    });
    const began = performance.now();
    await page.goto(base + "/incidents/" + incident.id);
    await page.waitForSelector(".verdict");
    const first = performance.now() - began;
    await page.waitForFunction(() => document.querySelector("[aria-label='Table: Members'] tbody tr") && !/\bLoading\b/.test(document.querySelector("main").innerText));
    await page.evaluate(() => new Promise((done) => requestIdleCallback(done)));
    const idle = performance.now() - began;
    await says(page, `1 to 50 of ${grouped(incident.validators)}`);
    const frames = await page.evaluate(async () => {
      const took = [];
      let last = performance.now();
      for (let n = 0; n < 120; n++) {
        scrollBy(0, n < 60 ? 120 : -120);
        await new Promise((done) => requestAnimationFrame(done));
        took.push(performance.now() - last);
        last = performance.now();
      }
      return took.sort((a, b) => a - b);
    });
    const tasks = await page.evaluate(() => globalThis.tasks);
    const p95 = frames[Math.floor(frames.length * 0.95)];
    say(`${incident.validators} members, ${findings} findings: first answer ${first.toFixed(0)} ms, idle ${idle.toFixed(0)} ms, longest task ${Math.max(0, ...tasks).toFixed(0)} ms, frame while scrolling p95 ${p95.toFixed(1)} ms`);
    assert.ok(Number(incident.validators) >= 3000 && findings >= 15000, `${incident.validators} members, ${findings} findings`);
    // Bounds that a loaded machine keeps too.
    assert.ok(idle < 20000, `idle after ${idle} ms`);
    assert.ok(p95 < 200, `a frame takes ${p95} ms`);
    await page.close();
  });
}

const routes = [];
const isRoute = (url) => routes.some((pattern) => pattern.test(new URL(url).pathname));
async function has(base, route) {
  if (!routes.length) {
    const paths = Object.keys((await json(base, "/openapi.json")).paths);
    routes.push(...paths.map((one) => new RegExp(`^${one.replace(/\{[^}]*\}/g, "[^/]+")}$`)));
  }
  return isRoute(base + route);
}

// ---- All of it

try {
  if (options.shots) fs.mkdirSync(options.shots, { recursive: true });
  const dir = (name) => path.join(folder, name);
  const demo = serve("demo", "--listen", "127.0.0.1:0", "--slots", "240", "--slot-ms", "1000", "--stay");
  const over = serve("demo", "--listen", "127.0.0.1:0", "--slots", "24", "--slot-ms", "500", "--stay");
  run("replay", "tests/data/gloas_12.e2s", "--data-dir", dir("offences"));
  run("simulate", "scenarios/staked.toml", "--out", dir("staked.e2s"));
  run("replay", dir("staked.e2s"), "--data-dir", dir("wave"), "--watch", "tests/page/keys.csv");
  browser = await chromium.launch({ executablePath: options.chromium, args: CHROMIUM });
  say("recordings are made");
  const first = await serve("serve", "--data-dir", dir("offences"), "--listen", "127.0.0.1:0");
  assert.ok(await has(first, "/v1/findings/0x01") && !(await has(first, "/v1/none")));
  await everyOffence(first);
  await wave(await serve("serve", "--data-dir", dir("wave"), "--listen", "127.0.0.1:0"));
  fs.writeFileSync(dir("own.csv"), "group,key,operator\nacme-1,100-119,acme\nus-1,20-29,acme\nsolo,40-44,other\n");
  fs.writeFileSync(dir("solo.csv"), "group,key,operator\nsolo,40-44,other\n");
  await ownWave(await serve("serve", "--data-dir", dir("wave"), "--watch", dir("own.csv"), "--listen", "127.0.0.1:0"), dir("wave"));
  await othersWave(await serve("serve", "--data-dir", dir("wave"), "--watch", dir("solo.csv"), "--listen", "127.0.0.1:0"));
  fs.writeFileSync(dir("one.toml"), ["seed = 20210202", 'fork = "fulu"', "slot_ms = 12000", "validators = 256", "slots = 40", "operator = [100, 75]", "[[acts]]", 'deed = "double_vote"', "first = 100", "n = 1", "from = 26", ""].join("\n"));
  run("simulate", dir("one.toml"), "--out", dir("one.e2s"));
  run("replay", dir("one.e2s"), "--data-dir", dir("one"));
  await ownOffence(await serve("serve", "--data-dir", dir("one"), "--watch", dir("own.csv"), "--listen", "127.0.0.1:0"));
  await report(dir("offences"));
  await report(dir("wave"));
  await token(await serve("serve", "--data-dir", dir("wave"), "--listen", "127.0.0.1:0", "--needs-token"), dir("wave"));
  await live(await demo);
  await reconnects(await demo);
  await ended(await over);
  if (options.big) await big(dir("big"));
} catch (error) {
  failures.push("the check itself");
  say(error.stack);
} finally {
  await browser?.close();
  await Promise.all(children.map((child) => new Promise((done) => {
    if (child.exitCode !== null) return done();
    child.on("exit", done);
    child.kill("SIGINT");
  })));
  fs.rmSync(folder, { recursive: true, force: true });
}
say(failures.length ? `FAILED: ${failures.join(", ")}` : "all of the page is well");
process.exit(failures.length ? 1 : 0);
