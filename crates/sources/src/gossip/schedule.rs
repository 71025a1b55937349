//! The topics to subscribe to, and when. Forks and changes of the blob limit change the fork
//! digest, and with it the name of every topic.
//!
//! The topics of the next digest are joined one epoch before they are used, so that the mesh exists
//! when the first message arrives. The old topics are left two epochs after their end, so that late
//! messages still arrive.

use crate::topic::Topic;
use consensus::{Epoch, ForkDigest, ForkName, MessageKind, Network};
use std::collections::BTreeSet;

/// Epochs before the first epoch of a digest at which its topics are joined.
const JOIN_EARLY_EPOCHS: u64 = 1;
/// Epochs after the last epoch of a digest at which its topics are left.
const LEAVE_LATE_EPOCHS: u64 = 2;

/// Returns the topics to be subscribed to at an epoch. `columns` are the column subnets to listen
/// to.
pub fn topics_at(network: &Network, epoch: Epoch, columns: &[u64]) -> BTreeSet<Topic> {
    // A fork that is not known probably has the topics of the one before.
    let mut digests: Vec<(ForkDigest, ForkName)> = Vec::new();
    let from = epoch.saturating_sub(LEAVE_LATE_EPOCHS).as_u64();
    let to = epoch.saturating_add(JOIN_EARLY_EPOCHS).as_u64();
    for epoch in (from..=to).map(Epoch::new) {
        let row = (network.fork_digest_at(epoch), network.spec.fork_name_at(epoch));
        if !digests.contains(&row) {
            digests.push(row);
        }
    }
    digests
        .into_iter()
        .flat_map(|(digest, fork)| kinds(fork, columns).into_iter().map(move |kind| Topic { digest, kind }))
        .collect()
}

/// The kinds that have topics at a fork, once for each subnet that is listened to.
fn kinds(fork: ForkName, columns: &[u64]) -> Vec<MessageKind> {
    let mut kinds = Vec::new();
    for kind in MessageKind::ALL.into_iter().filter(|kind| kind.has_topics_at(fork)) {
        match kind.n_subnets(fork) {
            None => kinds.push(kind),
            Some(_) if matches!(kind, MessageKind::DataColumnSidecar { .. }) => {
                kinds.extend(columns.iter().map(|index| kind.with_number(*index)));
            }
            Some(n_subnets) => kinds.extend((0..n_subnets).map(|subnet| kind.with_number(subnet))),
        }
    }
    kinds
}

/// The digests that a peer of this network may report at an epoch: that of the epoch, and those of
/// the epochs before and after it, because clocks differ.
pub(crate) fn digests_near(network: &Network, epoch: Epoch) -> [ForkDigest; 3] {
    [epoch, epoch.saturating_sub(1), epoch.saturating_add(1)].map(|epoch| network.fork_digest_at(epoch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{BlobParameters, Fork, Preset, Root, Spec};
    use std::time::Duration;

    /// Capella from epoch 0 on, Deneb from 10, Electra from 20, Fulu from 30, another blob limit
    /// from 40, Gloas from 50, Heze from 70.
    fn network() -> Network {
        let fork = |name: ForkName, epoch| Fork { name, epoch: Epoch::new(epoch), version: [name as u8, 0, 0, 9] };
        let forks = vec![
            fork(ForkName::Capella, 0),
            fork(ForkName::Deneb, 10),
            fork(ForkName::Electra, 20),
            fork(ForkName::Fulu, 30),
            fork(ForkName::Gloas, 50),
            fork(ForkName::Heze, 70),
        ];
        let spec = Spec {
            config_name: "test".into(),
            preset: Preset::MINIMAL,
            forks,
            later_forks: Vec::new(),
            slot_duration: Duration::from_secs(6),
            blob_schedule: vec![BlobParameters { epoch: Epoch::new(40), max_blobs_per_block: 15 }],
            blob_default: BlobParameters { epoch: Epoch::new(20), max_blobs_per_block: 9 },
        };
        Network { spec, genesis_time: 0, genesis_validators_root: Root::ZERO }
    }

    fn count(epoch: u64) -> (usize, usize) {
        let topics = topics_at(&network(), Epoch::new(epoch), &[3, 77, 80, 101]);
        let digests: BTreeSet<ForkDigest> = topics.iter().map(|topic| topic.digest).collect();
        (digests.len(), topics.len())
    }

    #[test]
    fn topics_are_joined_an_epoch_early_and_left_two_late() {
        assert_eq!(count(0), (1, 68));
        assert_eq!(count(8), (1, 68));
        assert_eq!(count(9), (2, 68 + 74));
        assert_eq!(count(11), (2, 68 + 74));
        assert_eq!(count(12), (1, 74));
        assert_eq!(count(25), (1, 77));
        assert_eq!(count(35), (1, 72));
        assert_eq!(count(39), (2, 144), "a blob step renames every topic");
        assert_eq!(count(42), (1, 72));
        assert_eq!(count(60), (1, 70));
        assert_eq!(count(69), (2, 70 + 71));
        assert_eq!(count(71), (2, 70 + 71));
        assert_eq!(count(72), (1, 71));
        assert_eq!(count(u64::MAX), (1, 71));
    }

    #[test]
    fn inclusion_lists_are_listened_to_from_heze_on_only() {
        let network = network();
        let (gloas, heze) = (network.fork_digest_at(Epoch::new(69)), network.fork_digest_at(Epoch::new(70)));
        let lists = |epoch: u64| -> Vec<ForkDigest> {
            let topics = topics_at(&network, Epoch::new(epoch), &[]);
            topics.into_iter().filter(|topic| topic.kind == MessageKind::InclusionList).map(|topic| topic.digest).collect()
        };
        assert_ne!(gloas, heze);
        assert_eq!((lists(68), lists(69), lists(71), lists(80)), (vec![], vec![heze], vec![heze], vec![heze]));
        let topics = topics_at(&network, Epoch::new(80), &[3]);
        let last = MessageKind::Attestation { subnet: 63 };
        for kind in [MessageKind::PayloadAttestation, MessageKind::PayloadBid, MessageKind::Block, last] {
            assert!(topics.contains(&Topic { digest: heze, kind }), "{kind:?}");
        }
        assert!(!topics.iter().any(|topic| matches!(topic.kind, MessageKind::DataColumnSidecar { .. })));
    }

    #[test]
    fn a_peer_may_be_an_epoch_off() {
        let network = network();
        let gloas = network.fork_digest_at(Epoch::new(50));
        assert!(!digests_near(&network, Epoch::new(48)).contains(&gloas));
        assert!(digests_near(&network, Epoch::new(49)).contains(&gloas));
        assert!(!digests_near(&network, Epoch::new(52)).contains(&network.fork_digest_at(Epoch::new(49))));
    }
}
