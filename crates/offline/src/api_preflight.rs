//! `slashwatch preflight --watcher URL`: the same check as with a data directory, of what the API
//! of a running watcher says ([`watcher::preflight`] has the rules).
//!
//! What is read is bounded: at most [`MAX_KEYS`] keys, and of their votes at most [`MAX_PAGES`]
//! pages for all keys together, one page at least for each. A page has the votes of 64 epochs. So
//! the client's record is compared with the latest votes only, and with the blocks of the last
//! 1 024 slots. The notes of the answer say so.

use crate::api_client::{ApiAnswer, ApiClient};
use api::Gap;
use consensus::interchange::{SignedEpochs, SignedSlot, SigningHistory};
use consensus::{DomainType, Epoch, PubkeyBytes, Root, Slot, ValidatorIndex, compute_domain, signing_root};
use detect::audit::{Epochs, Seen, audit};
use detect::watch::Selector;
use evidence::{Kind, Time};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use watcher::history::{Audit, AuditedKey, KnownTimes, not_a_key, read_interchange, selectors_in};
use watcher::preflight::{ClientRecord, KeyFacts, Preflight, PreflightFacts, SlotHeard, SlotWindow};
use watcher::{WatcherError, run};

/// Largest number of keys that are asked about.
const MAX_KEYS: usize = 4096;
/// Pages of votes that are read, for all keys together. Each key has one at least.
const MAX_PAGES: usize = 8192;
/// Votes of a page, as many as the API gives.
const VOTES_PER_PAGE: u64 = 64;
/// Slots of which the API tells what was heard.
const MAX_SLOTS: u64 = 128;

#[derive(Deserialize)]
struct NetworkAnswer {
    network: NetworkFacts,
}

#[derive(Deserialize)]
struct NetworkFacts {
    name: String,
    genesis_validators_root: Root,
    genesis_time: Time,
    slot_ms: u64,
    slots_per_epoch: u64,
}

#[derive(Deserialize)]
struct ForksAnswer {
    forks: Vec<ForkFacts>,
}

#[derive(Deserialize)]
struct ForkFacts {
    epoch: Epoch,
    version: String,
}

#[derive(Deserialize)]
struct StatusFacts {
    clock_slot: Slot,
    gaps: Vec<GapFacts>,
    validators: u64,
    recording: bool,
    readiness: ReadinessFacts,
}

#[derive(Deserialize)]
struct ReadinessFacts {
    listening: bool,
    last_message: Option<Time>,
}

#[derive(Deserialize)]
struct GapFacts {
    from_slot: Slot,
    to_slot: Slot,
    reason: String,
}

#[derive(Deserialize)]
struct ParticipationFacts {
    now_slot: Slot,
    slots: Vec<SlotRow>,
}

#[derive(Deserialize)]
struct SlotRow {
    slot: Slot,
    voters: u64,
    seats: Option<u64>,
}

#[derive(Deserialize)]
struct ValidatorAnswer {
    index: ValidatorIndex,
    pubkey: Option<PubkeyBytes>,
    registry: Option<RegistryFacts>,
    /// Newest first.
    votes: Vec<VoteFacts>,
    next: Option<Epoch>,
    proposals: Vec<ProposalFacts>,
    findings: Vec<FindingFacts>,
    has_more_findings: bool,
}

#[derive(Deserialize)]
struct RegistryFacts {
    slashed: bool,
    activation_epoch: Option<Epoch>,
}

#[derive(Deserialize)]
struct VoteFacts {
    slot: Slot,
    source: EpochOnly,
    target: EpochOnly,
    data_root: Root,
}

#[derive(Deserialize)]
struct EpochOnly {
    epoch: Epoch,
}

#[derive(Deserialize)]
struct ProposalFacts {
    slot: Slot,
    root: Root,
}

#[derive(Deserialize)]
struct FindingFacts {
    kind: String,
}

#[derive(Deserialize)]
struct FindingsAnswer {
    findings: Vec<FindingFacts>,
}

/// The network that the watcher follows.
struct WatchedNetwork {
    facts: NetworkFacts,
    /// Fork versions with their first epochs, ascending.
    versions: Vec<(Epoch, [u8; 4])>,
}

impl WatchedNetwork {
    async fn read(api: &ApiClient) -> Result<Self, WatcherError> {
        let facts = api.read::<NetworkAnswer>("/v1/network").await?.network;
        if facts.slot_ms == 0 || facts.slots_per_epoch == 0 {
            return Err(api.failed("/v1/network names no slots"));
        }
        let version = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok().map(u32::to_be_bytes);
        let forks = api.read::<ForksAnswer>("/v1/forks").await?.forks;
        let versions = forks.iter().map(|fork| Some((fork.epoch, version(&fork.version)?))).collect::<Option<Vec<_>>>();
        let versions = versions.filter(|versions| !versions.is_empty());
        Ok(Self { facts, versions: versions.ok_or_else(|| api.failed("/v1/forks names no fork versions"))? })
    }

    fn start_of(&self, slot: Slot) -> Time {
        let ns = slot.as_u64().saturating_mul(self.facts.slot_ms).saturating_mul(1_000_000);
        Time::from_unix_ns(self.facts.genesis_time.as_unix_ns().saturating_add(ns))
    }

    fn slot_at(&self, time: Time) -> Slot {
        Slot::new(time.as_unix_ns().saturating_sub(self.facts.genesis_time.as_unix_ns()) / 1_000_000 / self.facts.slot_ms)
    }

    fn epoch_of(&self, slot: Slot) -> Epoch {
        Epoch::new(slot.as_u64() / self.facts.slots_per_epoch)
    }

    fn signing_root(&self, object_root: Root, kind: DomainType, epoch: Epoch) -> Root {
        let in_force = self.versions.iter().rev().find(|(first, _)| *first <= epoch).or(self.versions.first());
        let version = in_force.map(|(_, version)| *version).unwrap_or_default();
        signing_root(object_root, compute_domain(kind, version, self.facts.genesis_validators_root))
    }
}

/// Checks the keys of a file as [`watcher::preflight::preflight`] does. `validators` is the list of
/// the keys that are to start. `on_progress` receives the number of keys that were asked about, and
/// of all.
///
/// # Errors
/// The file cannot be read, the list names what cannot be asked about, or the watcher does not
/// answer.
pub fn preflight(
    api: &ApiClient,
    path: &Path,
    validators: Option<&str>,
    is_pruned: bool,
    now: Time,
    on_progress: &mut dyn FnMut(usize, usize),
) -> Result<Preflight, WatcherError> {
    run::runtime()?.block_on(async {
        let network = WatchedNetwork::read(api).await?;
        let file = read_interchange(path, network.facts.genesis_validators_root)?;
        let expected = validators.map(keys_named).transpose()?;
        let in_file = || file.data.iter().map(|one| one.pubkey.to_string()).collect::<BTreeSet<String>>();
        let asked = expected.clone().unwrap_or_else(in_file);
        if asked.len() > MAX_KEYS {
            return Err(too_many(asked.len()));
        }
        let status: StatusFacts = api.read("/v1/status").await?;
        let clock = network.slot_at(now);
        let n_slots = (2 * network.facts.slots_per_epoch + 16).min(MAX_SLOTS);
        let heard: ParticipationFacts = api.read(&format!("/v1/participation?slots={n_slots}")).await?;
        let watched_until = watched_until(&status, heard.now_slot, &network);

        let max_pages = (MAX_PAGES / asked.len().max(1)).max(1);
        let (mut answers, mut unknown): (Vec<ValidatorAnswer>, Vec<PubkeyBytes>) = (Vec::new(), Vec::new());
        for (nth, key) in asked.iter().enumerate() {
            on_progress(nth, asked.len());
            match read_validator(api, key, max_pages).await? {
                Some(answer) => answers.push(answer),
                None if expected.is_some() => {
                    return Err(WatcherError::Usage(format!(
                        "the watcher at {} knows no validator {key}; check the key and the network",
                        api.address()
                    )));
                }
                None => unknown.extend(key.parse::<PubkeyBytes>()),
            }
        }
        let mut pubkeys = BTreeMap::new();
        for answer in &answers {
            let pubkey = answer.pubkey.ok_or_else(|| api.failed("it shows no public keys, as a recording"))?;
            pubkeys.insert(answer.index, pubkey);
        }
        let to_start: BTreeSet<PubkeyBytes> = pubkeys.values().copied().collect();
        let record = ClientRecord::new(file, expected.is_some().then_some(&to_start));

        let gaps = status.gaps.iter().map(|gap| Gap { from_slot: gap.from_slot, to_slot: gap.to_slot, reason: gap.reason.clone() });
        let gaps: Vec<Gap> = gaps.collect();
        let window = SlotWindow::before(clock, watched_until, network.facts.slots_per_epoch);
        let rows: BTreeMap<Slot, &SlotRow> = heard.slots.iter().map(|row| (row.slot, row)).collect();
        let slots = window.iter().flat_map(|window| window.first_slot.as_u64()..=window.last_slot.as_u64()).map(Slot::new);
        let heard = slots.map(|slot| {
            let row = rows.get(&slot);
            SlotHeard { slot, voters: row.map_or(0, |row| row.voters), seats: row.and_then(|row| row.seats) }
        });
        let recorded = record.recorded();
        let mut histories: BTreeMap<PubkeyBytes, Vec<&SigningHistory>> = BTreeMap::new();
        for history in &record.file.data {
            histories.entry(history.pubkey).or_default().push(history);
        }
        let mut report = Audit { schema: 1, network: network.facts.name.clone(), unknown_keys: unknown, ..Audit::default() };
        report.coverage = KnownTimes { epochs: compared(&answers), gaps: gaps.clone() };
        let mut keys = BTreeMap::new();
        answers.sort_by_key(|answer| answer.index);
        for answer in &answers {
            let pubkey = pubkeys[&answer.index];
            let seen = seen_of(answer, &network);
            let (voted, proposed) = (answer.votes.iter().map(|vote| vote.slot), answer.proposals.iter().map(|one| one.slot));
            let registry = answer.registry.as_ref();
            let facts = KeyFacts {
                last_signed: voted.chain(proposed).max(),
                has_offence: has_offence(api, answer).await?,
                is_slashed: registry.is_some_and(|registry| registry.slashed),
                was_active: registry.is_none_or(|one| one.activation_epoch.is_some_and(|epoch| epoch <= network.epoch_of(clock))),
                is_empty: !recorded.contains(&pubkey),
            };
            keys.insert(answer.index, facts);
            let of_key = histories.get(&pubkey).map(Vec::as_slice).unwrap_or_default();
            let audited = AuditedKey { index: answer.index, pubkey, in_file: !of_key.is_empty(), audit: audit(of_key, &seen) };
            report.add(audited, seen != Seen::default(), is_pruned);
        }
        let facts = PreflightFacts {
            now: clock,
            slots_per_epoch: network.facts.slots_per_epoch,
            watched_until,
            gaps,
            heard: heard.collect(),
            keys,
            has_state: status.validators > 0 && answers.iter().all(|answer| answer.registry.is_some()),
            is_pruned,
            audit: report,
        };
        let fired = fired_groups(api).await?;
        let mut answer = facts.answer(&record, &fired, now, |slot| network.start_of(slot));
        let oldest = answers.iter().filter_map(|answer| answer.votes.iter().map(|vote| vote.target.epoch).min()).min();
        let compared = oldest.map_or_else(|| "no votes".to_owned(), |epoch| format!("its votes from epoch {epoch} on"));
        answer.notes.push(format!(
            "the watcher at {} was asked: of each key the record was compared with {compared}, and with the blocks of the last 1024 slots. \
             `slashwatch audit`, beside its data directory, compares all",
            api.address(),
        ));
        Ok(answer)
    })
}

/// The keys that a list of `--validators` names, as the API takes them.
fn keys_named(list: &str) -> Result<BTreeSet<String>, WatcherError> {
    let mut keys = BTreeSet::new();
    for selector in selectors_in(list)? {
        match &selector {
            Selector::Index(index) => drop(keys.insert(index.to_string())),
            Selector::Range { first, last } => {
                let n_keys = last.as_u64().saturating_sub(first.as_u64()).saturating_add(1);
                if n_keys > MAX_KEYS as u64 {
                    return Err(too_many(usize::try_from(n_keys).unwrap_or(usize::MAX)));
                }
                keys.extend((first.as_u64()..=last.as_u64()).map(|index| index.to_string()));
            }
            Selector::Pubkey(pubkey) => drop(keys.insert(pubkey.to_string())),
            Selector::WithdrawalCredentials(_) | Selector::FeeRecipient(_) => return Err(not_a_key(&selector)),
        }
    }
    Ok(keys)
}

fn too_many(n_keys: usize) -> WatcherError {
    WatcherError::Usage(format!(
        "{n_keys} keys are too many to ask a watcher about, which takes {MAX_KEYS}: name fewer with --validators, or use --data-dir"
    ))
}

/// A validator with its latest votes. `None` if it is not known.
async fn read_validator(api: &ApiClient, key: &str, max_pages: usize) -> Result<Option<ValidatorAnswer>, WatcherError> {
    let path = |before: &str| format!("/v1/validators/{key}?limit={VOTES_PER_PAGE}{before}");
    let first = match api.get(&path("")).await? {
        ApiAnswer::Found(value) => value,
        ApiAnswer::Unknown => return Ok(None),
        ApiAnswer::NotShown => return Err(api.failed("it does not show validators on this address")),
    };
    let mut answer: ValidatorAnswer = api.parse(&path(""), first)?;
    for _ in 1..max_pages {
        let Some(before) = answer.next else { break };
        let page: ValidatorAnswer = api.read(&path(&format!("&before_epoch={before}"))).await?;
        answer.votes.extend(page.votes);
        // An answer that goes round in circles ends here.
        answer.next = page.next.filter(|next| *next < before);
    }
    Ok(Some(answer))
}

/// The slot up to which the watcher has listened.
fn watched_until(status: &StatusFacts, judged: Slot, network: &WatchedNetwork) -> Option<Slot> {
    if status.recording {
        return None;
    }
    match status.readiness.listening {
        true => Some(status.clock_slot.min(judged)),
        false => status.readiness.last_message.map(|at| network.slot_at(at)),
    }
}

fn seen_of(answer: &ValidatorAnswer, network: &WatchedNetwork) -> Seen {
    let votes = answer.votes.iter().map(|vote| SignedEpochs {
        source_epoch: vote.source.epoch,
        target_epoch: vote.target.epoch,
        signing_root: Some(network.signing_root(vote.data_root, DomainType::BeaconAttester, vote.target.epoch)),
    });
    let blocks = answer.proposals.iter().map(|one| SignedSlot {
        slot: one.slot,
        signing_root: Some(network.signing_root(one.root, DomainType::BeaconProposer, network.epoch_of(one.slot))),
    });
    let mut seen = Seen { votes: votes.collect(), blocks: blocks.collect() };
    seen.votes.sort_by_key(|vote| vote.target_epoch);
    seen.blocks.sort_by_key(|block| block.slot);
    seen
}

/// The epochs whose votes were read of each key.
fn compared(answers: &[ValidatorAnswer]) -> Option<Epochs> {
    let targets = |answer: &ValidatorAnswer| answer.votes.iter().map(|vote| vote.target.epoch).collect::<BTreeSet<Epoch>>();
    let all: Vec<BTreeSet<Epoch>> = answers.iter().map(targets).filter(|targets| !targets.is_empty()).collect();
    let first = all.iter().filter_map(|targets| targets.first().copied()).max()?;
    let last = all.iter().filter_map(|targets| targets.last().copied()).max()?;
    Some(Epochs { first, last })
}

/// Whether an offence of the validator is on record. Its newest findings may all be others.
async fn has_offence(api: &ApiClient, answer: &ValidatorAnswer) -> Result<bool, WatcherError> {
    let is_offence = |finding: &FindingFacts| Kind::known(&finding.kind).is_some_and(|kind| kind.offence().is_some());
    if answer.findings.iter().any(is_offence) || !answer.has_more_findings {
        return Ok(answer.findings.iter().any(is_offence));
    }
    for kind in Kind::all().filter(|kind| kind.offence().is_some()) {
        let path = format!("/v1/findings?validator={}&kind={kind}&limit=1", answer.index);
        if !api.read::<FindingsAnswer>(&path).await?.findings.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The groups whose kill switch has fired, as far as they are shown, with the command for the
/// watcher's machine that makes it ready.
async fn fired_groups(api: &ApiClient) -> Result<BTreeMap<String, String>, WatcherError> {
    let ApiAnswer::Found(value) = api.get("/v1/watch/groups").await? else { return Ok(BTreeMap::new()) };
    let has_fired = |group: &&serde_json::Value| group["kill_switch"]["state"].as_str().is_some_and(|state| state != "ready");
    let groups = value["groups"].as_array().into_iter().flatten().filter(has_fired);
    let names = groups.filter_map(|group| group["name"].as_str());
    Ok(names.map(|name| (name.to_owned(), format!("slashwatch killswitch rearm {name}"))).collect())
}
