//! A suspicion of why the members of a wave contradicted themselves. It is drawn from the
//! contradicting messages and from what their signers share.
//!
//! The first cause of this list that applies is reported. Percentages are of the wave's members.
//!
//! - `payload_status`: at least `cause_percent` have two votes that differ in `index` only, which
//!   from Gloas on says whether the payload of the head was present. Two nodes of one operator
//!   disagreed about the payload, and both signed with the same keys.
//! - `clocks`: at least `cause_percent` have a vote whose target is two epochs or more after the
//!   one in which the pair was complete. Seen in Medalla.
//! - `return_from_a_branch`: at least `cause_percent` are surrounds whose two votes stand on
//!   branches that exclude each other. Seen in Holesky 2025.
//! - `fresh_keys`: at least `nearly_all_percent` became active in one epoch, and at least
//!   `nearly_all_percent` within the last `fresh_epochs`. Seen on 14 November 2023.
//! - `same_keys_in_two_places`: at least `nearly_all_percent` share a label (such as operator or
//!   cluster) or a withdrawal credential. Either the keys run twice, or their protection history
//!   was lost. Seen with Staked, RockLogic, Launchnodes, SSV.
//! - `one_client`: at least `nearly_all_percent` run one client, for several owners.
//! - `unknown`: none of these.

use super::SlashingWaveConfig;
use super::traits::{ACTIVATION, CLIENT, CREDENTIAL};
use crate::client::{UNKNOWN, client_name};
use crate::monitor::DetectorView;
use consensus::{AttestationData, AttesterSlashing, Epoch, ForkName, Offence, ValidatorIndex};
use evidence::{Evidence, EvidenceKind, SharedTrait};
use serde::{Deserialize, Serialize};

/// What one pair of messages shows, and what is known of its signer when the pair is complete.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Clues {
    /// One of the two votes has a target after the epoch that follows the current one.
    from_the_future: bool,
    /// The two votes stand on branches that exclude each other.
    crosses_branches: bool,
    /// The two votes differ only in what they say about the payload of their head.
    #[serde(default)]
    payload_status_only: bool,
    /// The branches that the two votes are for, such as `0x0123abcd at epoch 7`.
    pub(super) sides: Vec<String>,
    /// The client that the validator runs, if it is known.
    pub(super) client: Option<String>,
}

impl Clues {
    pub(super) fn of(validator: ValidatorIndex, evidence: Option<&Evidence>, seen_in: Epoch, view: &DetectorView<'_>) -> Self {
        let client = view.facts.clients().of(validator, view.chain);
        let client = (client != UNKNOWN).then(|| client_name(client).to_owned());
        Self { client, ..evidence.map(|evidence| Self::of_pair(evidence, seen_in, view)).unwrap_or_default() }
    }

    fn of_pair(evidence: &Evidence, seen_in: Epoch, view: &DetectorView<'_>) -> Self {
        match evidence.kind {
            EvidenceKind::ProposerSlashing => Self::default(),
            // This runs once for each offender, so only the data of the two votes is decoded, not
            // the lists of indices.
            EvidenceKind::AttesterSlashing => match AttesterSlashing::data_in_ssz(&evidence.ssz) {
                Some(data) => Self::of_votes(&data, seen_in, view),
                None => Self::default(),
            },
        }
    }

    fn of_votes([one, two]: &[AttestationData; 2], seen_in: Epoch, view: &DetectorView<'_>) -> Self {
        let preset = view.network().preset();
        let stands_on = |tip: &AttestationData, checkpoint: &consensus::Checkpoint| {
            // If a block is not known, the vote counts as standing on the checkpoint.
            let slot = checkpoint.epoch.start_slot(preset);
            view.chain.ancestor_at(&tip.beacon_block_root, slot).is_none_or(|at| at == checkpoint.root)
        };
        let same_sides = one.target.root == two.target.root;
        let sides = if same_sides { [one.beacon_block_root, two.beacon_block_root] } else { [one.target.root, two.target.root] };
        let name = |root: &consensus::Root, epoch: Epoch| format!("{} at epoch {epoch}", shortened(root));
        let mut sides = vec![name(&sides[0], one.target.epoch), name(&sides[1], two.target.epoch)];
        sides.dedup();
        Self {
            from_the_future: one.target.epoch.max(two.target.epoch) > seen_in.saturating_add(1),
            payload_status_only: AttestationData { index: two.index, ..*one } == *two
                && one.index != two.index
                && view.network().spec.fork_name_at(one.target.epoch) >= ForkName::Gloas,
            crosses_branches: !stands_on(one, &two.source) || !stands_on(two, &one.target) && !stands_on(one, &two.target),
            sides,
            client: None,
        }
    }
}

/// `0x` and the first four bytes in hexadecimal.
fn shortened(root: &consensus::Root) -> String {
    root.to_string().chars().take(10).collect()
}

/// What all pairs show, as counts of members.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct CauseTally {
    from_the_future: u64,
    crossing_surrounds: u64,
    fresh: u64,
    #[serde(default)]
    payload_status_only: u64,
}

/// A suspicion: its name, and its evidence in sentences.
pub(super) struct Cause {
    pub(super) name: &'static str,
    pub(super) evidence: Vec<String>,
}

impl CauseTally {
    pub(super) fn add(&mut self, clues: &Clues, offence: Offence, is_fresh: bool) {
        self.from_the_future += u64::from(clues.from_the_future);
        self.crossing_surrounds += u64::from(clues.crosses_branches && offence == Offence::SurroundVote);
        self.fresh += u64::from(is_fresh);
        self.payload_status_only += u64::from(clues.payload_status_only);
    }

    pub(super) fn suspect(&self, n_members: u64, shared: &[SharedTrait], config: &SlashingWaveConfig) -> Cause {
        let n = n_members.max(1);
        let most = |what: &str| shared.iter().filter(|one| one.what.starts_with(what)).max_by_key(|one| one.members.0);
        let is_cause = |count: u64| count * 100 >= n * config.cause_percent;
        let nearly_all = |count: u64| count * 100 >= n * config.nearly_all_percent;
        if is_cause(self.payload_status_only) {
            let mut evidence = vec![format!(
                "{} of {n} signed two votes that differ in index only: one says that the payload of the block was there, the other that it was not",
                self.payload_status_only
            )];
            let owner = most("label:").or_else(|| most(CREDENTIAL));
            evidence.extend(owner.map(|one| format!("{} of {n} share {} {}", one.members.0, one.what, one.value)));
            return Cause { name: "payload_status", evidence };
        }
        if is_cause(self.from_the_future) {
            let mut evidence = vec![format!(
                "{} of {n} signed a vote for an epoch that had not begun, and then contradicted it",
                self.from_the_future
            )];
            evidence.extend(most(CLIENT).map(|one| format!("{} of {n} run {}", one.members.0, one.value)));
            return Cause { name: "clocks", evidence };
        }
        if is_cause(self.crossing_surrounds) {
            let evidence = vec![format!(
                "{} of {n} surrounded their own votes when they came back from a branch that had justified another checkpoint",
                self.crossing_surrounds
            )];
            return Cause { name: "return_from_a_branch", evidence };
        }
        if let Some(one) = most(ACTIVATION).filter(|one| nearly_all(one.members.0))
            && nearly_all(self.fresh)
        {
            let evidence = vec![format!("{} of {n} became active together in epoch {}", one.members.0, one.value)];
            return Cause { name: "fresh_keys", evidence };
        }
        let owner = most("label:").filter(|one| nearly_all(one.members.0));
        let owner = owner.or_else(|| most(CREDENTIAL).filter(|one| nearly_all(one.members.0)));
        if let Some(one) = owner {
            let mut evidence = vec![format!("{} of {n} share {} {}", one.members.0, one.what, one.value)];
            evidence.push("their keys are used in two places, or their protection history was lost".into());
            return Cause { name: "same_keys_in_two_places", evidence };
        }
        if let Some(one) = most(CLIENT).filter(|one| nearly_all(one.members.0)) {
            return Cause { name: "one_client", evidence: vec![format!("{} of {n} run {}", one.members.0, one.value)] };
        }
        Cause { name: "unknown", evidence: Vec::new() }
    }
}
