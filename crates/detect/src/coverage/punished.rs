//! Blind spots that the chain closes: of the validators that blocks punished, how many had we heard
//! contradict themselves before we received the slashing?
//!
//! The findings are the record. A finding that needed a slashing operation has the source
//! `slashing_op`, and a finding whose slashing is in the chain says in which block. So after a
//! restart everything is counted again from the store, and data directories of older versions have
//! it too.
//!
//! A validator counts once, because it can be slashed once. It counts as heard if any offence of it
//! was proven from messages alone, in singles, aggregates or blocks, before the slashing came.
//!
//! A slashing in a block that came more than [`LATE`] after its slot does not count: the past is
//! filled in, by a replay or from a node, and nobody was listening then. What happens while the
//! watcher is down counts as not heard, because it was not.

use consensus::{Network, Slot, ValidatorIndex};
use evidence::{Finding, Included, Time};
use std::collections::BTreeMap;
use std::time::Duration;
use verify::SourceKind;

/// Days that are counted back.
pub const PUNISHED_DAYS: u64 = 30;
/// A block that was recorded this long after its slot belongs to the past.
const LATE: Duration = Duration::from_secs(86_400);
/// Largest number of validators that are remembered. Further ones are not counted.
const MAX_VALIDATORS: usize = 262_144;

/// Validators that blocks punished, and when we had heard their offences.
#[derive(Debug, Default)]
pub struct PunishedOffences {
    /// When an offence was first proven from messages alone.
    heard: BTreeMap<ValidatorIndex, Time>,
    punished: BTreeMap<ValidatorIndex, PunishedValidator>,
}

#[derive(Clone, Copy, Debug)]
struct PunishedValidator {
    included: Included,
    /// When we had both contradicting messages, from wherever.
    known_at: Time,
}

/// How many validators blocks punished in the last [`PUNISHED_DAYS`] days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PunishedCounts {
    pub n_validators: u64,
    /// Those of them whose offence we had heard before.
    pub n_heard: u64,
}

impl PunishedOffences {
    /// Reads a stored finding. Findings must come in the order of recording.
    pub fn recall(&mut self, finding: &Finding, network: &Network) {
        self.note_offence(finding);
        if let Some(included) = finding.included {
            self.note_punished(finding, included, finding.recorded_at, network);
        }
    }

    /// Records an offence that is new.
    pub fn note_offence(&mut self, finding: &Finding) {
        let is_heard = !finding.sources.iter().any(|source| source == SourceKind::SlashingOp.label());
        let Some(subject) = finding.validator.as_ref().filter(|_| finding.offence().is_some() && is_heard) else { return };
        if self.heard.len() < MAX_VALIDATORS || self.heard.contains_key(&subject.index) {
            let at = known_at(finding);
            self.heard.entry(subject.index).and_modify(|known| *known = at.min(*known)).or_insert(at);
        }
    }

    /// Records that a block of the chain punishes the offence. `recorded_at` is when it was
    /// recorded.
    pub fn note_punished(&mut self, finding: &Finding, included: Included, recorded_at: Time, network: &Network) {
        let Some(subject) = finding.validator.as_ref().filter(|_| finding.offence().is_some()) else { return };
        let late = network.slot_start_ns(included.slot).saturating_add(LATE.as_nanos() as u64);
        if recorded_at.as_unix_ns() > late || self.punished.len() >= MAX_VALIDATORS {
            return;
        }
        self.punished.entry(subject.index).or_insert(PunishedValidator { included, known_at: known_at(finding) });
    }

    /// Records that the chain has left the block that punished this offence.
    pub fn reopen(&mut self, finding: &Finding) {
        if let Some(subject) = &finding.validator {
            self.punished.remove(&subject.index);
        }
    }

    /// Counts the last [`PUNISHED_DAYS`] days up to `now`, and forgets what is older.
    pub fn counts(&mut self, now: Slot, network: &Network) -> PunishedCounts {
        let slots = PUNISHED_DAYS * 86_400_000 / (network.spec.slot_duration.as_millis() as u64).max(1);
        let oldest = now.saturating_sub(slots);
        self.punished.retain(|_, one| one.included.slot >= oldest);
        let forgotten = Time::from_unix_ns(network.slot_start_ns(oldest));
        self.heard.retain(|validator, at| *at >= forgotten || self.punished.contains_key(validator));
        let is_heard = |(validator, one): &(&ValidatorIndex, &PunishedValidator)| {
            self.heard.get(validator).is_some_and(|at| *at <= one.known_at)
        };
        PunishedCounts { n_validators: self.punished.len() as u64, n_heard: self.punished.iter().filter(is_heard).count() as u64 }
    }
}

fn known_at(finding: &Finding) -> Time {
    finding.second_seen.unwrap_or(finding.first_seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{ForkName, Root, Spec};
    use evidence::{Evidence, EvidenceKind, OffenceFacts};

    const PER_DAY: u64 = 7_200;

    fn mainnet() -> Network {
        Network { spec: Spec::builtin("mainnet").unwrap(), genesis_time: 0, genesis_validators_root: Root::ZERO }
    }

    fn at(slot: u64) -> Time {
        Time::from_unix_ns(mainnet().slot_start_ns(Slot::new(slot)))
    }

    /// An offence that was known in this slot.
    fn offence(validator: u64, nth: u8, sources: &[&str], slot: u64) -> Finding {
        let facts = OffenceFacts {
            validator: ValidatorIndex::new(validator),
            roots: [Root::ZERO, Root::repeat_byte(nth)],
            seen: [at(slot); 2],
            sources: sources.iter().map(|source| (*source).to_owned()).collect(),
            ..OffenceFacts::sample()
        };
        let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, vec![nth], ().into());
        Finding { recorded_at: at(slot), ..Finding::slashable(facts, &evidence) }
    }

    fn punished(finding: Finding, slot: u64) -> Finding {
        Finding { included: Some(Included { slot: Slot::new(slot), block_root: Root::ZERO }), ..finding }
    }

    /// The counts in a slot, after these findings were read in this order.
    fn counts(findings: &[Finding], slot: u64) -> (u64, u64) {
        let mut offences = PunishedOffences::default();
        findings.iter().for_each(|finding| offences.recall(finding, &mainnet()));
        let counts = offences.counts(Slot::new(slot), &mainnet());
        (counts.n_validators, counts.n_heard)
    }

    #[test]
    fn what_only_a_block_told_counts_against_us() {
        let start = 100 * PER_DAY;
        let heard = punished(offence(1, 1, &["gossip"], start), start + 5);
        let in_blocks = punished(offence(2, 1, &["block", "gossip"], start), start + 5);
        let half = punished(offence(3, 1, &["gossip", "slashing_op"], start + 5), start + 5);
        let unheard = punished(offence(4, 1, &["slashing_op"], start + 5), start + 5);
        let unpunished = offence(5, 1, &["gossip"], start);
        let all = [heard, in_blocks, half, unheard, unpunished];
        assert_eq!(counts(&all, start + 100), (4, 2));
        assert_eq!(counts(&all, start + 30 * PER_DAY), (4, 2));
        assert_eq!(counts(&all, start + 31 * PER_DAY), (0, 0), "30 days are over");
    }

    #[test]
    fn another_pair_of_the_same_validator_counts_if_it_came_before_the_slashing() {
        let start = 100 * PER_DAY;
        let slashing = punished(offence(1, 1, &["slashing_op"], start + 5), start + 5);
        assert_eq!(counts(&[offence(1, 2, &["gossip"], start + 4), slashing.clone()], start + 9), (1, 1));
        assert_eq!(counts(&[slashing.clone(), offence(1, 2, &["gossip"], start + 6)], start + 9), (1, 0), "too late");
        assert_eq!(
            counts(&[slashing.clone(), punished(offence(1, 3, &["slashing_op"], start + 6), start + 6)], start + 9),
            (1, 0)
        );
        let anomaly = Finding { kind: evidence::Kind::MissedProposals, ..offence(1, 4, &["gossip"], start) };
        assert_eq!(counts(&[anomaly, slashing], start + 9), (1, 0), "no offence");
    }

    #[test]
    fn what_is_filled_in_later_counts_for_nothing() {
        let start = 100 * PER_DAY;
        let of_block =
            |recorded| Finding { recorded_at: at(recorded), ..punished(offence(1, 1, &["slashing_op"], start), start) };
        assert_eq!(counts(&[of_block(start + PER_DAY)], start + PER_DAY), (1, 0));
        assert_eq!(counts(&[of_block(start + PER_DAY + 1)], start + PER_DAY + 1), (0, 0));
    }

    #[test]
    fn a_block_that_the_chain_left_punished_nobody() {
        let start = 100 * PER_DAY;
        let finding = punished(offence(1, 1, &["slashing_op"], start), start);
        let mut offences = PunishedOffences::default();
        offences.recall(&finding, &mainnet());
        offences.reopen(&finding);
        assert_eq!(offences.counts(Slot::new(start), &mainnet()), PunishedCounts::default());
    }
}
