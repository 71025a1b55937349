//! The API's view of watched keys.

use crate::coverage;
use actions::killswitch::{AfterStop, Fired, KillSwitchState};
use actions::lists::reload::ActiveConfig;
use api::{
    AfterStopView, HeldBackView, KeyFilter, KillSwitchView, MAX_GROUP_LABELS, OrderView, SignedView, WatchGroup, WatchPage,
    WatchSource, WatchedKey, index_ranges,
};
use consensus::{Network, ValidatorIndex};
use detect::coverage::SharedCoverage;
use detect::watch::{KeyStatus, Label, Labels, SharedWatchState};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// Answers requests of the API from the last report of the detector of watched keys.
pub struct WatchedKeysSource {
    pub watch_state: SharedWatchState,
    /// The state of the kill switches.
    pub switches: watch::Receiver<Arc<KillSwitchState>>,
    /// The lists of watched keys that are in use.
    pub active: watch::Receiver<Arc<ActiveConfig>>,
    pub coverage: SharedCoverage,
    /// Converts slots to times.
    pub network: Arc<Network>,
}

impl WatchSource for WatchedKeysSource {
    fn groups(&self) -> Vec<WatchGroup> {
        // The groups are known from the start. What their members did is known from the first batch
        // on.
        let (report, labels) = (self.watch_state.report(), self.watch_state.labels());
        let (switch_state, active) = (self.switches.borrow().clone(), self.active.borrow().clone());
        let with_switch = |name: &str| active.config.groups.iter().any(|group| group.name == name && group.kill_switch.is_some());
        let groups = labels.groups().iter().map(|group| {
            let members = group.validators.iter().filter_map(|validator| key(&report.keys, *validator));
            let members: Vec<&KeyStatus> = members.collect();
            let judged: Vec<u32> = members.iter().filter_map(|key| key.effectiveness_permille).collect();
            let sum: u64 = judged.iter().map(|permille| u64::from(*permille)).sum();
            let mut signed = SignedView::default();
            for (key, newest_vote) in members.iter().filter_map(|key| Some((key, key.last_vote?))) {
                signed.add(newest_vote, key.newest_source, report.slot.saturating_add(1), &self.network);
            }
            WatchGroup {
                name: group.name.to_string(),
                validators: group.validators.len() as u64,
                unknown_keys: group.unknown.len() as u64,
                missing: members.iter().filter(|key| key.missed_in_a_row > 0).count() as u64,
                missed_in_a_row: members.iter().map(|key| u64::from(key.missed_in_a_row)).max().unwrap_or(0),
                first_hand: coverage::group_view(&self.coverage.report(), &group.name, &self.network),
                effectiveness: sum.checked_div(judged.len() as u64).map(|permille| permille as f64 / 1000.0),
                kill_switch: with_switch(&group.name).then(|| kill_switch_view(&switch_state, &group.name)),
                labels: labels_of(&labels, &group.validators),
                indices: index_ranges(group.validators.iter().copied()),
                signed: Some(signed),
            }
        });
        groups.collect()
    }

    fn keys(&self, after: Option<ValidatorIndex>, wanted: &KeyFilter, limit: usize) -> WatchPage {
        let report = self.watch_state.report();
        let from = after.map_or(0, |after| report.keys.partition_point(|key| key.validator <= after));
        let mut page = WatchPage::default();
        for key in report.keys[from..].iter().filter(|key| matches(&report.labels, key, wanted)) {
            if page.keys.len() == limit {
                page.has_more = true;
                break;
            }
            page.keys.push(shown(&report.labels, key));
        }
        page
    }

    fn groups_of(&self, validator: ValidatorIndex) -> Vec<String> {
        self.watch_state.labels().group_names(validator)
    }

    fn has_groups(&self) -> bool {
        !self.watch_state.labels().groups().is_empty()
    }

    fn has_label(&self, label: &str) -> bool {
        let labels = self.watch_state.labels();
        let Some((name, value)) = label.split_once('=') else { return false };
        labels.watched().any(|(validator, _)| labels.value_is(validator, name, value))
    }

    fn is_private(&self, label: &str) -> bool {
        self.active.borrow().is_private(label)
    }

    fn listed_labels(&self, validator: ValidatorIndex) -> Vec<String> {
        self.watch_state.labels().listed_strings(validator)
    }
}

/// Labels that these validators have besides `group`.
fn labels_of(labels: &Labels, validators: &[ValidatorIndex]) -> Vec<String> {
    // Many members share one set of labels.
    let sets: BTreeSet<u32> = validators.iter().filter_map(|validator| labels.set_number(*validator)).collect();
    let all = sets.iter().filter_map(|set| labels.set(*set as usize)).flat_map(|set| &set.labels);
    let others: BTreeSet<String> = all.filter(|label| label.key != Label::GROUP).map(ToString::to_string).collect();
    others.into_iter().take(MAX_GROUP_LABELS).collect()
}

fn key(keys: &[KeyStatus], validator: ValidatorIndex) -> Option<&KeyStatus> {
    keys.binary_search_by_key(&validator, |key| key.validator).ok().map(|at| &keys[at])
}

fn matches(labels: &Labels, key: &KeyStatus, wanted: &KeyFilter) -> bool {
    let has = |label: &str| label.split_once('=').is_some_and(|(name, value)| labels.value_is(key.validator, name, value));
    wanted.group.as_ref().is_none_or(|group| labels.value_is(key.validator, "group", group))
        && wanted.label.as_ref().is_none_or(|label| has(label))
        && u64::from(key.missed_in_a_row) >= wanted.missed_in_a_row
}

fn shown(labels: &Labels, key: &KeyStatus) -> WatchedKey {
    let set = labels.get(key.validator).cloned().unwrap_or_default();
    let groups = set.groups.iter().filter_map(|id| labels.group(*id)).map(|group| group.name.to_string());
    WatchedKey {
        index: key.validator,
        pubkey: key.pubkey,
        groups: groups.collect(),
        labels: set.labels.iter().map(ToString::to_string).collect(),
        duty: set.duty.as_str().into(),
        state: key.state.as_str().into(),
        effective_balance: key.effective_balance,
        last_vote: key.last_vote,
        missed_in_a_row: u64::from(key.missed_in_a_row),
        duties: u64::from(key.due),
        voted: u64::from(key.voted),
        proposals: u64::from(key.proposals.due),
        proposed: u64::from(key.proposals.made),
        effectiveness: key.effectiveness_permille.map(|permille| f64::from(permille) / 1000.0),
    }
}

/// What is recorded of a group's kill switch.
pub fn kill_switch_view(state: &KillSwitchState, group: &str) -> KillSwitchView {
    let earlier = state.earlier.get(group).map(|earlier| OrderView {
        finding: earlier.finding,
        kind: earlier.kind.clone(),
        dry_run: earlier.dry_run,
        ordered_at: earlier.ordered_at,
        attempts: earlier.attempts,
        took_ms: earlier.result.as_ref().map(|result| result.took_ms),
        answer: earlier.result.as_ref().map(|result| result.public_text().to_owned()),
        after_stop: earlier.after_stop.as_ref().map(after_stop),
    });
    let (fired, held_back) = (state.fired.get(group), state.held_back.get(group));
    let armed_again_at = state.armed_again_at.get(group).copied();
    let state = match fired.map(Fired::is_done) {
        None => "ready",
        Some(None) => "ordered",
        Some(Some(true)) => "done",
        Some(Some(false)) => "failed",
    };
    let result = fired.and_then(|fired| fired.result.as_ref());
    KillSwitchView {
        state: state.into(),
        dry_run: fired.is_some_and(|fired| fired.dry_run),
        finding: fired.map(|fired| fired.finding),
        kind: fired.map(|fired| fired.kind.clone()),
        ordered_at: fired.map(|fired| fired.ordered_at),
        attempts: fired.map_or(0, |fired| fired.attempts),
        took_ms: result.map(|result| result.took_ms),
        answer: result.map(|result| result.public_text().to_owned()),
        after_stop: fired.and_then(|fired| fired.after_stop.as_ref()).map(after_stop),
        armed_again_at,
        earlier,
        held_back: held_back.map(|held| HeldBackView {
            finding: held.finding,
            kind: held.kind.clone(),
            at: held.at,
            reason: held.reason.clone(),
            times: held.times,
        }),
    }
}

fn after_stop(after: &AfterStop) -> AfterStopView {
    let signing = after.signing.as_ref();
    let state = match (signing, after.silent_since) {
        (Some(_), _) => "signing",
        (None, Some(_)) => "silent",
        (None, None) => "listening",
    };
    AfterStopView {
        state: state.into(),
        since: signing.map(|signing| signing.since).or(after.silent_since),
        keys: signing.map_or(0, |signing| signing.n_keys),
        validators: signing.map_or_else(Vec::new, |signing| signing.keys.iter().copied().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use detect::watch::FeePayers;
    use sources::capture::CaptureFile;

    /// The engine resolves the lists when it opens. The detector reports for the first time after
    /// the first batch.
    #[test]
    fn groups_and_labels_are_known_before_the_first_batch() {
        let file = CaptureFile::open(std::path::Path::new("../../tests/data/fulu_4.e2s")).unwrap();
        let spec = consensus::Spec::from_yaml(&file.first_config().unwrap().unwrap()).unwrap();
        let state = file.first_state().unwrap().unwrap();
        let chain = chain::Chain::from_state(spec, &state, &mut chain::PubkeyCache::in_memory(), &mut |_| ()).unwrap();
        let unknown_key = format!("0x{}", "ab".repeat(48));
        let config = toml::from_str(&format!(
            "[[groups]]\nname = \"acme\"\nkeys = [\"1-3\", {unknown_key:?}]\nlabels = {{ operator = \"a\" }}\n\
             [groups.kill_switch]\ncommand = [\"/bin/true\"]\n\
             [[groups]]\nname = \"blue\"\nkeys = [\"5\"]\n"
        ));
        let active = actions::lists::reload::read_lists(&config.unwrap()).unwrap();
        let watch_state = SharedWatchState::default();
        watch_state.set_labels(Arc::new(Labels::resolve(&active.list, chain.registry(), &FeePayers::default())));
        let source = WatchedKeysSource {
            watch_state,
            switches: watch::channel(Arc::new(KillSwitchState::default())).1,
            active: watch::channel(Arc::new(active)).1,
            coverage: SharedCoverage::default(),
            network: chain.network().clone(),
        };
        let groups = source.groups();
        let shown: Vec<_> = groups.iter().map(|group| (group.name.as_str(), group.validators, group.unknown_keys)).collect();
        assert_eq!(shown, [("acme", 3, 1), ("blue", 1, 0)]);
        assert_eq!(groups[0].kill_switch.as_ref().unwrap().state, "ready");
        assert!(groups[1].kill_switch.is_none());
        assert!(groups.iter().all(|group| group.effectiveness.is_none() && group.missing == 0), "nothing is judged yet");
        let commands: Vec<_> = groups.iter().map(|group| (group.labels.join(","), group.indices.as_deref())).collect();
        assert_eq!(commands, [("operator=a".to_owned(), Some("1-3")), (String::new(), Some("5"))]);
        assert!(groups.iter().all(|group| group.signed == Some(SignedView::default())), "no vote was received");
        assert!(source.keys(None, &KeyFilter::default(), 10).keys.is_empty(), "nothing is reported yet");
        for (label, is_known) in [("operator=a", true), ("group=blue", true), ("operator=b", false), ("operator", false)] {
            assert_eq!(source.has_label(label), is_known, "{label}");
        }
    }
}
