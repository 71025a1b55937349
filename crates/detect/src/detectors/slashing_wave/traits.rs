//! What the members of a wave have in common, against how common that is among all validators.

use super::cause::Clues;
use crate::client::{UNKNOWN, client_name};
use crate::monitor::View;
use consensus::{Epoch, ValidatorIndex};
use evidence::{Count, SharedTrait};
use std::collections::{BTreeMap, HashMap};

/// Different traits counted at most.
const MAX_TRAITS: usize = 4_096;
/// Told per sort.
const TOLD: usize = 5;
pub(super) const CREDENTIAL: &str = "withdrawal_credential";
pub(super) const ACTIVATION: &str = "activation_epoch";
pub(super) const CLIENT: &str = "client";
pub(super) const FORK_SIDE: &str = "fork_side";

/// (what, value) -> members.
#[derive(Default)]
pub(super) struct Traits {
    counts: BTreeMap<(String, String), u64>,
    /// Credential number by value, for the share among all.
    credentials: HashMap<String, u32>,
    /// Among all validators; made when first needed.
    among_all: Option<AmongAll>,
}

struct AmongAll {
    by_credential: Vec<u32>,
    by_activation: HashMap<Epoch, u64>,
    validators: u64,
}

impl Traits {
    pub(super) fn add(&mut self, validator: ValidatorIndex, clues: &Clues, view: &View<'_>) {
        let registry = view.chain.registry();
        for (key, value) in view.labels.labels(validator) {
            self.count(format!("label:{key}"), value);
        }
        if let (Some(credential), Some(number)) =
            (registry.withdrawal_credentials(validator), registry.credential_number(validator))
        {
            let value = credential.to_string();
            if self.count(CREDENTIAL.into(), value.clone()) {
                self.credentials.insert(value, number);
            }
        }
        if let Some(record) = registry.record(validator) {
            self.count(ACTIVATION.into(), record.activation_epoch.to_string());
        }
        let client = view.facts.clients().of(validator, view.chain);
        if client != UNKNOWN {
            self.count(CLIENT.into(), client_name(client).into());
        }
        for side in &clues.sides {
            self.count(FORK_SIDE.into(), side.clone());
        }
    }

    /// Whether there was room.
    fn count(&mut self, what: String, value: String) -> bool {
        let has_room = self.counts.len() < MAX_TRAITS;
        let place = (what, value);
        match self.counts.get_mut(&place) {
            Some(count) => *count += 1,
            None if has_room => {
                self.counts.insert(place, 1);
            }
            None => return false,
        }
        true
    }

    /// Traits of at least two and a tenth of the members that are twice as frequent among them as among all, most members
    /// first, a few per sort.
    pub(super) fn shared(&mut self, n_members: u64, view: &View<'_>) -> Vec<SharedTrait> {
        let among_all = self.among_all.get_or_insert_with(|| AmongAll::of(view));
        let mut told: Vec<SharedTrait> = Vec::new();
        for ((what, value), members) in &self.counts {
            if *members < 2 || members * 10 < n_members {
                continue;
            }
            let all = match what.as_str() {
                CREDENTIAL => {
                    self.credentials.get(value).and_then(|n| among_all.by_credential.get(*n as usize)).map(|n| u64::from(*n))
                }
                ACTIVATION => value.parse().ok().and_then(|epoch| among_all.by_activation.get(&epoch).copied()),
                CLIENT | FORK_SIDE => None,
                label => label.strip_prefix("label:").and_then(|key| view.labels.n_labelled(key, value)),
            };
            let usual = all.is_some_and(|all| {
                // members / n_members < 2 * all / validators
                u128::from(*members) * u128::from(among_all.validators) < 2 * u128::from(all) * u128::from(n_members)
            });
            if !usual {
                told.push(SharedTrait { what: what.clone(), value: value.clone(), members: Count(*members) });
            }
        }
        told.sort_by(|a, b| (&a.what, b.members, &a.value).cmp(&(&b.what, a.members, &b.value)));
        let mut of_this = ("", 0);
        let keep: Vec<bool> = told
            .iter()
            .map(|one| {
                of_this = if of_this.0 == one.what { (of_this.0, of_this.1 + 1) } else { (one.what.as_str(), 1) };
                of_this.1 <= TOLD
            })
            .collect();
        let mut keep = keep.into_iter();
        told.retain(|_| keep.next().unwrap_or(false));
        told
    }
}

impl AmongAll {
    fn of(view: &View<'_>) -> Self {
        let registry = view.chain.registry();
        let mut by_activation = HashMap::new();
        for index in 0..registry.len() as u64 {
            if let Some(record) = registry.record(ValidatorIndex::new(index)) {
                *by_activation.entry(record.activation_epoch).or_default() += 1;
            }
        }
        Self { by_credential: registry.n_by_credential(), by_activation, validators: registry.len() as u64 }
    }
}
