//! What a route would send, without sending it: messages about made-up findings.

use crate::merge::{Bundle, MergeState};
use consensus::{Epoch, ForkName, Offence, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::{
    Anomaly, DeliveryId, DueDelivery, Evidence, EvidenceKind, Finding, Kind, OffenceFacts, Priority, Punishable, RouteName,
    Severity, Subject, Time,
};
use serde_json::{Map, json};

/// When the made-up things happen.
const NOW: Time = Time::from_unix_ns(1_767_225_600_000_000_000);
/// Number of strangers in the made-up update.
const N_STRANGERS: u64 = 3;
/// Validators of the made-up incident.
const N_WAVE: u64 = 3000;

/// The messages about a kind: for an offence one about an own key, and an update about several
/// strangers; for an anomaly that an incident opens and is over. Without `merges` only the first.
pub(crate) fn samples(kind: &Kind, merges: bool) -> Vec<Bundle> {
    let rounds: Vec<Vec<Finding>> = match kind {
        Kind::Offence(offence) => vec![
            vec![offence_of(*offence, 100, &["group=acme-1", "operator=acme"])],
            vec![offence_of(*offence, 7, &[])],
            (0..N_STRANGERS).map(|nth| offence_of(*offence, 500 + nth, &["operator=other"])).collect(),
        ],
        Kind::SecondSigner | Kind::DormantKeySigned | Kind::ProofNotConfirmed | Kind::SignedElsewhere | Kind::TwoOrigins => {
            vec![vec![anomaly(kind, None)]]
        }
        _ => vec![vec![anomaly(kind, None)], vec![anomaly(kind, Some("over"))]],
    };
    let mut state = MergeState::default();
    let mut bundles = Vec::new();
    for findings in rounds {
        let due: Vec<DueDelivery> = (1..).zip(findings).map(|(seq, finding)| due(seq, finding)).collect();
        if !merges {
            return due.into_iter().map(Bundle::single).collect();
        }
        for bundle in state.plan(due, &|_| true, None, u32::MAX, NOW).bundles {
            state.told(&bundle, NOW);
            bundles.push(bundle);
        }
    }
    bundles
}

fn due(seq: u64, finding: Finding) -> DueDelivery {
    let route = RouteName::new("preview").expect("letters only");
    let id = DeliveryId { seq, route };
    DueDelivery { id, priority: Priority::Watched, attempts: 0, refusals: 0, created_at: NOW, due_at: NOW, finding }
}

fn offence_of(offence: Offence, index: u64, labels: &[&str]) -> Finding {
    let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, Vec::new(), json!({}));
    let facts = OffenceFacts {
        genesis_validators_root: Root::ZERO,
        offence,
        validator: ValidatorIndex::new(index),
        pubkey: PubkeyBytes::repeat_byte(0xab),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        roots: [Root::ZERO, Root::repeat_byte(1)],
        slot: Slot::new(1000),
        epoch: Epoch::new(31),
        seen: [NOW; 2],
        recorded_at: NOW,
        sources: vec!["gossip".into()],
        fork: ForkName::Fulu,
        punishable: Punishable::Yes,
    };
    Finding::slashable(facts, &evidence)
}

fn anomaly(kind: &Kind, news: Option<&str>) -> Finding {
    let mut details = Map::new();
    let is_single = matches!(
        kind,
        Kind::SecondSigner | Kind::DormantKeySigned | Kind::ProofNotConfirmed | Kind::SignedElsewhere | Kind::TwoOrigins
    );
    if !is_single {
        details.insert("incident".into(), json!(Root::repeat_byte(2)));
    }
    details.extend(news.map(|news| ("news".to_owned(), json!(news))));
    let (severity, validator) = match kind {
        Kind::SlashingWave => {
            details.insert("validators".into(), json!(N_WAVE.to_string()));
            details.insert("suspected_cause".into(), json!("same_keys_in_two_places"));
            (Severity::Critical, None)
        }
        Kind::SecondSigner | Kind::DormantKeySigned | Kind::SignedElsewhere | Kind::TwoOrigins => {
            let labels = vec!["group=acme-1".to_owned()];
            let pubkey = PubkeyBytes::repeat_byte(0xab);
            (Severity::Critical, Some(Subject { index: ValidatorIndex::new(100), pubkey, labels }))
        }
        Kind::KillSwitchFailed | Kind::SignsAfterStop | Kind::ProofNotConfirmed => {
            details.insert("labels".into(), json!(["group=acme-1"]));
            if *kind == Kind::SignsAfterStop {
                details.insert("keys_signing".into(), json!(N_STRANGERS));
            }
            (Severity::Critical, None)
        }
        _ => (Severity::Warning, None),
    };
    Finding::anomaly(Anomaly {
        id: Root::repeat_byte(if news.is_some() { 3 } else { 2 }),
        kind: kind.clone(),
        severity,
        slot: Slot::new(1000),
        epoch: Epoch::new(31),
        validator,
        first_seen: NOW,
        second_seen: None,
        recorded_at: NOW,
        sources: vec!["gossip".into()],
        fork: ForkName::Fulu,
        details,
    })
}
