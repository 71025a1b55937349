//! Which kill switches a finding fires, and why it does not fire one that it concerns.
//!
//! "Proven" only means that some key of the registry signed it. Whoever holds a key that has left can sign anything for nothing, and
//! whoever has the messages of a key that was punished long ago can send them again: both are proven offences. So an offence fires a
//! switch only while there is something to save:
//!
//! 1. a block can still punish it, or nobody knows whether one can ([`Punishable::Yes`], [`Punishable::Unknown`]);
//! 2. its later message is not for a slot more than `max_age_epochs` before now. A slot in the future counts as new: a machine
//!    whose clock is ahead signs for such slots, and nobody can have been punished for them long ago;
//! 3. the accused is a key that the operator named ([`super::members`]), and has the public key that the registry has for that member;
//! 4. it was heard within an hour of being recorded: a replayed capture is not about machines that run.
//!
//! What is held back is an alert like any other. The reason is in its delivery, in `/v1/watch/groups` and among the notices.

use super::members::Circle;
use crate::config::{MembersConfig, TriggerConfig};
use alert::killswitch::KillSwitch;
use consensus::{Network, PubkeyBytes, ValidatorIndex};
use evidence::{Finding, Kind, Punishable, Subject, Time};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What was heard longer ago when it was recorded comes from a replayed capture, not from machines that are running.
const MAX_AGE_RECORDED: Duration = Duration::from_secs(3600);

/// A switch with what fires it.
#[derive(Clone)]
pub(super) struct Armed {
    pub switch: Arc<KillSwitch>,
    pub on: Vec<TriggerConfig>,
    /// Epochs between an offence's later message and now, at most.
    pub max_age_epochs: u64,
    /// The group's members: `group=NAME`.
    pub own: Circle,
    /// Whoever shares one of the group's labels whose holders' offences concern it.
    pub kin: Circle,
}

/// What a switch makes of a finding that concerns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fires,
    HeldBack(HeldBack),
}

/// Why a switch does not fire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeldBack {
    NotPunishable(Punishable),
    TooOld { epochs: u64, most: u64 },
    NotNamed,
    OtherKey { member: PubkeyBytes },
    NotCertain,
    FromCapture,
}

impl fmt::Display for HeldBack {
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
                "the key is not named by index, range or public key, but a member by withdrawal credentials or fee recipient, which a stranger can make it"
            ),
            Self::OtherKey { member } => write!(f, "the registry's key of this index is {member}, and the accused is another"),
            Self::NotCertain => write!(f, "the key is not named, and whether a block can punish it is not known"),
            Self::FromCapture => write!(f, "it was heard more than an hour before it was recorded, as in a replayed capture"),
        }
    }
}

impl Armed {
    /// `None` if the finding is none of its business. `key_of`: the registry's public keys of members.
    pub fn verdict(
        &self,
        finding: &Finding,
        now: Time,
        network: &Network,
        key_of: &dyn Fn(ValidatorIndex) -> Option<PubkeyBytes>,
    ) -> Option<Verdict> {
        let is_offence = finding.offence().is_some();
        let mut held_back = None;
        for trigger in &self.on {
            let (circle, is_meant) = match trigger {
                TriggerConfig::Offence => (&self.own, is_offence),
                TriggerConfig::KinOffence => (&self.kin, is_offence),
                TriggerConfig::DormantKeySigned => (&self.own, finding.kind == Kind::DormantKeySigned),
            };
            let Some(subject) = finding.validator.as_ref().filter(|_| is_meant && circle.concerns(finding)) else { continue };
            match self.obstacle(circle, finding, subject, now, network, key_of) {
                None => return Some(Verdict::Fires),
                Some(why) => held_back = held_back.or(Some(Verdict::HeldBack(why))),
            }
        }
        held_back
    }

    fn obstacle(
        &self,
        circle: &Circle,
        finding: &Finding,
        subject: &Subject,
        now: Time,
        network: &Network,
        key_of: &dyn Fn(ValidatorIndex) -> Option<PubkeyBytes>,
    ) -> Option<HeldBack> {
        let heard = finding.second_seen.unwrap_or(finding.first_seen);
        if finding.recorded_at.since(heard) > MAX_AGE_RECORDED {
            return Some(HeldBack::FromCapture);
        }
        let is_named = circle.named.has(subject);
        if !is_named && circle.members == MembersConfig::Named {
            return Some(HeldBack::NotNamed);
        }
        if let Some(member) = key_of(subject.index).filter(|member| *member != subject.pubkey) {
            return Some(HeldBack::OtherKey { member });
        }
        finding.offence()?;
        match finding.punishable {
            Some(Punishable::Yes) => {}
            None | Some(Punishable::Unknown) if is_named => {}
            None | Some(Punishable::Unknown) => return Some(HeldBack::NotCertain),
            Some(
                other @ (Punishable::AlreadySlashed | Punishable::NotActive | Punishable::Withdrawable | Punishable::ForkExpired),
            ) => {
                return Some(HeldBack::NotPunishable(other));
            }
        }
        let slots = network.slot_at(now.as_unix_ns()).as_u64().saturating_sub(finding.slot.as_u64());
        let epochs = slots.div_ceil(network.preset().slots_per_epoch);
        (epochs > self.max_age_epochs).then_some(HeldBack::TooOld { epochs, most: self.max_age_epochs })
    }
}
