//! Rules that decide which kill switches a finding fires, and why it does not fire a switch that it
//! concerns.
//!
//! A proven offence only means that a registered key signed it. Whoever holds the key of a
//! validator that has left can sign anything without a penalty. Whoever has the messages of a key
//! that was punished long ago can send them again. Both are proven offences. So an offence fires a
//! switch only while there is something left to save:
//!
//! 1. A block can still punish it ([`Punishable::Yes`]), or nobody knows whether one can
//!    ([`Punishable::Unknown`]).
//! 2. The slot or the target epoch of its later message is at most `max_age_epochs` before now: no
//!    rule of slashing looks at the slot of a vote, and a thief may write any. One in the future
//!    counts as new. A machine whose clock is ahead signs for such slots, and nobody can have been
//!    punished for them long ago.
//! 3. The accused is a key that the operator named (see [`super::members`]). With
//!    [`MembersConfig::All`] other members count too, but only if rule 1 holds with `Yes`. The
//!    accused has the public key that the registry has for that index.
//! 4. It was recorded at most an hour after its second message was received. A replayed capture is
//!    not about machines that are running now.
//!
//! 5. After the switch was made ready again: its later message is for a slot more than an epoch
//!    after the order before that. Peers do not forward second votes, so whoever has heard such a
//!    key before the stop may hold more of its messages back, and each would stop the clients that
//!    were mended.
//!
//! For a key that should be silent and has signed, and for one whose votes come from two nodes in
//! turn, only rules 3, 4 and 5 apply.
//!
//! A finding that does not fire the switch is still delivered as an alert. The reason is in the
//! delivery, in `/v1/watch/groups` and among the notices of the status page.

use super::after_stop::GRACE_EPOCHS;
use super::members::MemberSet;
use crate::config::{MembersConfig, TriggerConfig};
use alert::killswitch::KillSwitch;
use consensus::{Network, PubkeyBytes, Slot, ValidatorIndex};
use evidence::{Finding, Kind, Punishable, Subject, Time};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Longest time between the arrival of a message and its record. Beyond it the message comes from a
/// replayed capture and not from a machine that is running.
const MAX_AGE_RECORDED: Duration = Duration::from_secs(3600);

/// A configured switch together with what fires it.
#[derive(Clone)]
pub(super) struct ConfiguredSwitch {
    pub switch: Arc<KillSwitch>,
    /// The labels of the group's entries, by which alert routes select.
    pub labels: Vec<String>,
    /// Whether another implementation checks the proof before an order.
    pub second_check: bool,
    /// Removed when the switch is made ready again.
    pub lock_file: Option<PathBuf>,
    pub on: Vec<TriggerConfig>,
    /// Maximum number of epochs between the offence's later message and now.
    pub max_age_epochs: u64,
    /// The group's own members, which have the label `group=NAME`.
    pub own: MemberSet,
    /// Validators that share one of the group's `kin_labels`.
    pub kin: MemberSet,
}

/// Decision of a switch about a finding that concerns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SwitchDecision {
    Fires,
    NotFiredReason(NotFiredReason),
}

/// Reason why a switch does not fire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotFiredReason {
    NotPunishable(Punishable),
    TooOld { epochs: u64, most: u64 },
    NotNamed,
    OtherKey { member: PubkeyBytes },
    NotCertain,
    FromCapture,
    BeforeStop { until: Slot },
}

impl fmt::Display for NotFiredReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPunishable(why) => {
                let why = match why {
                    Punishable::AlreadySlashed => "the key is slashed already",
                    Punishable::Withdrawable => "the key has left",
                    Punishable::NotActive => "the key is not active yet",
                    Punishable::ForkExpired => "it was signed two forks ago or earlier",
                    Punishable::Yes | Punishable::Unknown => "its state is not known",
                };
                write!(f, "no block can punish it ({why}), and whoever has such messages can send them at any time")
            }
            Self::TooOld { epochs, most } => {
                write!(f, "its later message is for a slot {epochs} epochs ago, and `max_age_epochs` is {most}")
            }
            Self::NotNamed => write!(
                f,
                "the key is not named by index, range or public key in a list of yours, but by withdrawal credentials, a fee recipient or a list at a URL, which a stranger can do"
            ),
            Self::OtherKey { member } => write!(f, "the registry's key of this index is {member}, and the accused is another"),
            Self::NotCertain => write!(f, "the key is not named, and whether a block can punish it is not known"),
            Self::BeforeStop { until } => write!(
                f,
                "its messages are for slots up to {until}, an epoch after the last stop, so they may have been signed before it and held back"
            ),
            Self::FromCapture => write!(f, "it was received more than an hour before it was recorded, as in a replayed capture"),
        }
    }
}

/// The slot of a finding's later message, or the first one of its target epoch if that is later.
fn later_slot(finding: &Finding, network: &Network) -> Slot {
    finding.slot.max(finding.epoch.start_slot(network.preset()))
}

/// The last slot of which a message may have been signed before an order at this time.
pub(super) fn held_back_until(ordered_at: Time, network: &Network) -> Slot {
    network.slot_at(ordered_at.as_unix_ns()).saturating_add(GRACE_EPOCHS * network.preset().slots_per_epoch)
}

impl ConfiguredSwitch {
    /// Decides about a finding. Returns `None` if the finding does not concern this switch.
    /// `last_order` is the time of the order before the switch was made ready again. `key_of`
    /// returns the registry's public key of an index.
    pub fn decide(
        &self,
        finding: &Finding,
        last_order: Option<Time>,
        now: Time,
        network: &Network,
        key_of: &dyn Fn(ValidatorIndex) -> Option<PubkeyBytes>,
    ) -> Option<SwitchDecision> {
        let is_offence = finding.offence().is_some();
        let mut not_fired = None;
        for trigger in &self.on {
            let (members, is_meant) = match trigger {
                TriggerConfig::Offence => (&self.own, is_offence),
                TriggerConfig::KinOffence => (&self.kin, is_offence),
                TriggerConfig::DormantKeySigned => (&self.own, finding.kind == Kind::DormantKeySigned),
                TriggerConfig::TwoOrigins => (&self.own, finding.kind == Kind::TwoOrigins),
            };
            let Some(subject) = finding.validator.as_ref().filter(|_| is_meant && members.concerns(finding)) else { continue };
            let before_stop = || {
                let until = held_back_until(last_order?, network);
                (later_slot(finding, network) <= until).then_some(NotFiredReason::BeforeStop { until })
            };
            match self.obstacle(members, finding, subject, now, network, key_of).or_else(before_stop) {
                None => return Some(SwitchDecision::Fires),
                Some(why) => not_fired = not_fired.or(Some(SwitchDecision::NotFiredReason(why))),
            }
        }
        not_fired
    }

    /// Returns the first reason why the finding does not fire the switch, if there is one.
    fn obstacle(
        &self,
        members: &MemberSet,
        finding: &Finding,
        subject: &Subject,
        now: Time,
        network: &Network,
        key_of: &dyn Fn(ValidatorIndex) -> Option<PubkeyBytes>,
    ) -> Option<NotFiredReason> {
        let received_at = finding.second_seen.unwrap_or(finding.first_seen);
        if finding.recorded_at.since(received_at) > MAX_AGE_RECORDED {
            return Some(NotFiredReason::FromCapture);
        }
        let is_named = members.named.has(subject.index, subject.pubkey);
        if !is_named && members.members == MembersConfig::Named {
            return Some(NotFiredReason::NotNamed);
        }
        if let Some(member) = key_of(subject.index).filter(|member| *member != subject.pubkey) {
            return Some(NotFiredReason::OtherKey { member });
        }
        finding.offence()?;
        match finding.punishable {
            Some(Punishable::Yes) => {}
            None | Some(Punishable::Unknown) if is_named => {}
            None | Some(Punishable::Unknown) => return Some(NotFiredReason::NotCertain),
            Some(
                other @ (Punishable::AlreadySlashed | Punishable::NotActive | Punishable::Withdrawable | Punishable::ForkExpired),
            ) => {
                return Some(NotFiredReason::NotPunishable(other));
            }
        }
        let slots = network.slot_at(now.as_unix_ns()).as_u64().saturating_sub(later_slot(finding, network).as_u64());
        let epochs = slots.div_ceil(network.preset().slots_per_epoch);
        (epochs > self.max_age_epochs).then_some(NotFiredReason::TooOld { epochs, most: self.max_age_epochs })
    }
}
