//! A long run from one state: deposits, exits and requests move the registry, no later state comes,
//! and the votes are still proven. The simulator's own registry says what is true.
//!
//! `SLASHWATCH_LONG_RUN_EPOCHS=500 cargo test --release -p verify --test long_run -- --nocapture`
//! plays 500 epochs and prints what became of the votes, and the sizes of everything that could
//! grow.

#![allow(clippy::unwrap_used)]

mod common;

use common::Capture;
use consensus::{Epoch, ForkName, Slot, ValidatorIndex};
use simulator::{Act, Deed, GroundTruth, RegistryPlan, Scenario, Who};
use std::collections::{BTreeMap, BTreeSet};
use verify::{MessageKind, Outcome, Ticket, Verifier, VerifyConfig};

/// The epoch of the state.
const FROM: u64 = 10;

/// Epochs after the state. More than a test should take are played on demand.
fn n_epochs() -> u64 {
    std::env::var("SLASHWATCH_LONG_RUN_EPOCHS").map_or(60, |text| text.parse().expect("a number of epochs"))
}

fn scenario(fork: ForkName, every: u64) -> Scenario {
    Scenario {
        fork,
        slots: (FROM + n_epochs()) * 8,
        slashings_after: Some(3),
        missed_blocks_percent: 5,
        acts: vec![Act { deed: Deed::DoubleVote, who: Who::OnDuty(2), from: Slot::new((FROM + 20) * 8) }],
        registry: Some(RegistryPlan { from: Epoch::new(FROM), every, ejected: Vec::new() }),
        ..Scenario::quiet(64)
    }
}

/// What became of the votes of one kind of message.
#[derive(Clone, Debug, Default)]
struct Figures {
    messages: u64,
    by_outcome: BTreeMap<&'static str, u64>,
    waited: u64,
    longest_wait_slots: u64,
    /// The epochs of the slots at which messages came that were not judged.
    unjudged: BTreeSet<Epoch>,
}

/// The sizes of everything that could grow.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    blocks: usize,
    shuffling_bytes: usize,
    parked: usize,
    parked_bytes: usize,
    remembered_votes: usize,
    resident_bytes: u64,
}

struct Played {
    name: String,
    figures: BTreeMap<&'static str, Figures>,
    inner: BTreeMap<&'static str, u64>,
    expired_in: BTreeMap<Epoch, u64>,
    sizes: Vec<(Epoch, Sizes)>,
    /// Records that are those of the simulator's registry, and those that are not, by what differs.
    n_equal: u64,
    differs: BTreeMap<&'static str, u64>,
    first_difference: Option<String>,
    /// Epochs at whose end a newer state was wanted.
    wants_state: Vec<Epoch>,
    /// Validators of the state whose votes were not all proven.
    lost: BTreeMap<ValidatorIndex, u64>,
    n_newcomers: usize,
    n_left: usize,
    cpu_seconds: f64,
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn kind_of(kind: &MessageKind) -> &'static str {
    match kind {
        MessageKind::Block => "block",
        MessageKind::Aggregate => "aggregate",
        MessageKind::Attestation { .. } => "vote",
        _ => "other",
    }
}

fn play(scenario: &Scenario, on_worker: bool) -> Played {
    let name =
        format!("{}{}", scenario.fork, scenario.next_fork.map_or(String::new(), |(fork, at)| format!(" to {fork} at {at}")));
    let (bytes, truth) = simulator::record::capture_bytes(scenario).unwrap();
    let capture = Capture::of_bytes(&name, &bytes);
    let mut chain = capture.chain();
    if on_worker {
        chain.compute_on_worker();
    }
    let n_known = chain.registry().len() as u64;
    let mut verifier = Verifier::seeded(VerifyConfig::replay(), 1);
    let mut played = Played {
        name,
        figures: BTreeMap::new(),
        inner: BTreeMap::new(),
        expired_in: BTreeMap::new(),
        sizes: Vec::new(),
        n_equal: 0,
        differs: BTreeMap::new(),
        first_difference: None,
        wants_state: Vec::new(),
        lost: BTreeMap::new(),
        n_newcomers: truth.registry.last_key_value().unwrap().1.len() - n_known as usize,
        n_left: 0,
        cpu_seconds: 0.0,
    };
    let last = truth.registry.last_key_value().unwrap();
    played.n_left = last.1.iter().filter(|record| record.exit <= *last.0).count();
    let started = std::time::Instant::now();
    let mut parked_at: BTreeMap<Ticket, Slot> = BTreeMap::new();
    let mut kinds: BTreeMap<Ticket, (&'static str, Slot)> = BTreeMap::new();
    let network = chain.network().clone();
    let slot_of = |message: &verify::RawMessage| network.slot_at(message.received_at.0);
    let mut proven: BTreeSet<(ValidatorIndex, Epoch)> = BTreeSet::new();
    let mut at = 0;
    let mut now = capture.messages[0].received_at;
    let end = Slot::new(scenario.slots);
    for slot in FROM * 8..=scenario.slots {
        let slot = Slot::new(slot);
        let first = at;
        while at < capture.messages.len() && slot_of(&capture.messages[at]) <= slot {
            at += 1;
        }
        let batch = capture.messages[first..at].to_vec();
        for message in &batch {
            let kind = kind_of(&message.kind);
            kinds.insert(message.ticket.unwrap(), (kind, slot));
            played.figures.entry(kind).or_default().messages += 1;
        }
        chain.tick(slot);
        now = batch.last().map_or(now, |message| message.received_at);
        let mut verified = verifier.process(&mut chain, batch, now);
        if slot == end {
            let rest = verifier.finish(&mut chain, now);
            verified.outcomes.extend(rest.outcomes);
            verified.inner.extend(rest.inner);
            verified.votes.extend(rest.votes);
            for (epoch, count) in rest.expired_in {
                *verified.expired_in.entry(epoch).or_default() += count;
            }
        }
        for (ticket, _, _, outcome) in &verified.outcomes {
            let ticket = ticket.unwrap();
            let (kind, since) = kinds[&ticket];
            let figures = played.figures.entry(kind).or_default();
            if *outcome == Outcome::Parked {
                figures.waited += 1;
                parked_at.insert(ticket, slot);
                continue;
            }
            *figures.by_outcome.entry(outcome.label()).or_default() += 1;
            if let Some(begun) = parked_at.remove(&ticket) {
                figures.longest_wait_slots = figures.longest_wait_slots.max(slot.as_u64() - begun.as_u64());
            }
            if matches!(outcome, Outcome::Expired | Outcome::UnknownValidator | Outcome::Refused(_)) {
                figures.unjudged.insert(since.epoch(network.preset()));
            }
        }
        for (_, outcome) in &verified.inner {
            *played.inner.entry(outcome.label()).or_default() += 1;
        }
        for (epoch, count) in &verified.expired_in {
            *played.expired_in.entry(*epoch).or_default() += count;
        }
        for vote in &verified.votes {
            let target = vote.get().data.target.epoch;
            proven.extend(vote.get().indices.iter().map(|index| (*index, target)));
        }
        if (slot.as_u64() + 1).is_multiple_of(8) {
            end_epoch(&mut played, &mut chain, &verifier, &truth, slot.epoch(network.preset()));
        }
    }
    played.cpu_seconds = started.elapsed().as_secs_f64();
    // Every active validator of the state votes in every epoch.
    for (epoch, records) in &truth.registry {
        for (index, record) in (0..n_known).map(ValidatorIndex::new).zip(records) {
            let is_active = record.activation <= *epoch && *epoch < record.exit;
            if is_active && !proven.contains(&(index, *epoch)) {
                *played.lost.entry(index).or_default() += 1;
            }
        }
    }
    played
}

fn end_epoch(played: &mut Played, chain: &mut chain::Chain, verifier: &Verifier, truth: &GroundTruth, epoch: Epoch) {
    for (index, theirs) in (0..).map(ValidatorIndex::new).zip(&truth.registry[&epoch]) {
        let ours = chain.followed_record(index);
        let what = match ours {
            None => "existence",
            Some(ours) if ours.slashed != theirs.slashed => "slashed",
            Some(ours) if ours.activation_epoch != theirs.activation => "activation",
            Some(ours) if ours.exit_epoch != theirs.exit => "exit",
            Some(ours) if ours.withdrawable_epoch != theirs.withdrawable => "withdrawable",
            Some(_) => {
                played.n_equal += 1;
                continue;
            }
        };
        *played.differs.entry(what).or_default() += 1;
        played.first_difference.get_or_insert_with(|| format!("epoch {epoch}, validator {index}: {ours:?}, not {theirs:?}"));
    }
    if chain.needs_registry_refresh() {
        played.wants_state.push(epoch);
    }
    if epoch.as_u64().is_multiple_of(25) || epoch.as_u64() == FROM {
        let (stats, of_verifier) = (chain.stats(), verifier.stats());
        let sizes = Sizes {
            blocks: stats.blocks,
            shuffling_bytes: stats.shuffling_bytes,
            parked: of_verifier.parked,
            parked_bytes: of_verifier.parked_bytes,
            remembered_votes: of_verifier.remembered_votes,
            resident_bytes: resident_bytes(),
        };
        played.sizes.push((epoch, sizes));
    }
}

impl Played {
    fn print(&self) {
        println!("== {}: {} came, {} left, {:.1} s", self.name, self.n_newcomers, self.n_left, self.cpu_seconds);
        for (kind, figures) in &self.figures {
            println!("{kind}: {figures:?}");
        }
        println!("votes in blocks: {:?}", self.inner);
        println!("not judged, by epoch: {:?}", self.expired_in);
        println!("records equal {}, differ {:?}, the first: {:?}", self.n_equal, self.differs, self.first_difference);
        println!("a newer state wanted at the end of {} epochs, first {:?}", self.wants_state.len(), self.wants_state.first());
        println!("validators of the state with votes that were never proven: {:?}", self.lost);
        for (epoch, sizes) in &self.sizes {
            println!("  epoch {epoch}: {sizes:?}");
        }
    }
}

/// Blocks tell everything here, so the registry is that of the simulator after each epoch, and each
/// vote of a validator of the state is proven. Votes of validators that a deposit has added wait
/// for a state that names their keys, and so do aggregates with such a member.
fn votes_stay_provable(scenario: &Scenario) {
    let played = play(scenario, false);
    played.print();
    assert!(played.n_newcomers > 3 && played.n_left > 3, "the registry moves");
    assert!(played.differs.is_empty(), "{:?}", played.first_difference);
    assert!(played.lost.is_empty(), "{:?}", played.lost);
    for figures in played.figures.values() {
        let blamed = ["malformed", "bad_signature"].map(|label| figures.by_outcome.contains_key(label));
        assert_eq!(blamed, [false; 2], "somebody honest is blamed: {figures:?}");
    }
    // The blocks of 256 epochs are kept, and messages wait for at most 64 epochs: 64 votes in each,
    // and as many aggregates and blocks as slots.
    let [first, last] = [played.sizes.first(), played.sizes.last()].map(|sizes| sizes.unwrap().1);
    assert!(last.blocks <= (256 + FROM as usize) * 8 && last.shuffling_bytes <= 1 << 20, "{:?}", played.sizes);
    assert!(last.parked <= 64 * (64 + 8 + 8 + 8) && last.parked_bytes <= 2 << 20, "{:?}", played.sizes);
    assert!(last.remembered_votes as u64 <= 64 * 2 * n_epochs(), "{:?}", played.sizes);
    assert!(last.resident_bytes <= first.resident_bytes + (64 << 20), "{:?}", played.sizes);
}

/// Committees are needed.
#[test]
fn from_one_state_the_votes_of_deneb_stay_provable_while_blocks_move_the_registry() {
    votes_stay_provable(&scenario(ForkName::Deneb, 24));
}

/// Single votes name their validators.
#[test]
fn from_one_state_the_votes_of_electra_stay_provable_while_blocks_move_the_registry() {
    votes_stay_provable(&scenario(ForkName::Electra, 16));
}

#[test]
fn from_one_state_the_votes_stay_provable_over_the_fork_to_electra() {
    let middle = Epoch::new(FROM + 20);
    votes_stay_provable(&Scenario { next_fork: Some((ForkName::Electra, middle)), ..scenario(ForkName::Deneb, 24) });
}

#[test]
fn from_one_state_the_votes_of_fulu_stay_provable_while_blocks_move_the_registry() {
    votes_stay_provable(&scenario(ForkName::Fulu, 16));
}

/// The balance of three validators falls below the limit, and the network ejects them. A state that
/// shows the balances is enough. Without one, votes by bits cannot be judged once the three are
/// gone: before Electra those are all votes. Nobody is blamed, and a state is wanted.
#[test]
fn an_ejection_that_no_block_tells_costs_votes_by_bits_and_accuses_nobody() {
    let with = |fork, at: u64| {
        let run = scenario(fork, 24);
        let registry = run.registry.map(|plan| RegistryPlan { ejected: vec![(3, Epoch::new(at))], ..plan });
        play(&Scenario { registry, slots: (FROM + 40) * 8, ..run }, false)
    };
    let in_state = with(ForkName::Deneb, FROM);
    in_state.print();
    assert!(in_state.differs.is_empty() && in_state.lost.is_empty(), "{:?}", in_state.first_difference);
    for fork in [ForkName::Deneb, ForkName::Electra] {
        let played = with(fork, FROM + 15);
        played.print();
        assert!(played.differs.contains_key("exit"), "{:?}", played.first_difference);
        assert!(!played.wants_state.is_empty());
        let blamed =
            |figures: &Figures| ["malformed", "bad_signature"].iter().any(|label| figures.by_outcome.contains_key(label));
        assert!(!played.figures.values().any(blamed), "somebody honest is blamed: {:?}", played.figures);
        let gone = Epoch::new(FROM + 15 + 5);
        assert!(played.expired_in.range(gone..).count() > 10, "{:?}", played.expired_in);
        // From Electra on single votes name their validators.
        assert_eq!(played.lost.is_empty(), fork >= ForkName::Electra, "{:?}", played.lost);
    }
}
