//! Slashings: the proofs that are on record here, whether a block has included each, and after how
//! long. Also as a feed.
//!
//! A row is one proof in one state. A slashing that was proven here and is in no block is marked:
//! no explorer of the chain can show it.

use crate::findings::{number, page_limit, read, understood};
use crate::observed::{ObservedSource, RegistryView};
use crate::problem::ProblemDetails;
use crate::server::Shared;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use consensus::{ForkName, Network, Root, Slot, ValidatorIndex};
use evidence::{EvidenceKind, Finding, Included, Kind, Punishable, Query as FindingQuery, SortOrder, Store, StoreError, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use utoipa::{IntoParams, ToSchema};

/// Validators and findings of a row that are listed.
const MAX_LISTED: usize = 64;
/// Findings that one request reads at once, and how often it does.
const CHUNK: usize = 500;
const MAX_CHUNKS: usize = 8;
/// Findings of a validator that are searched for one that a block included, in steps of so many.
/// A validator can have 1 024 of each kind of offence (docs/detection.md).
const OF_VALIDATOR_STEP: usize = 64;
const MAX_OF_VALIDATOR: usize = 4096;
/// Validators of whom it is remembered whether a block has slashed them.
const MAX_KNOWN_SLASHED: usize = 1 << 16;
/// Entries of the feed.
const FEED_LEN: usize = 100;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SlashingsQuery {
    /// `desc` for newest first, `asc` for the order of recording. The default is `desc`.
    order: Option<String>,
    /// `true`: only those that a block has included. `false`: only the others.
    included: Option<String>,
    /// The field `next` of the page before.
    cursor: Option<String>,
    /// 1 to 1000. The default is 100.
    limit: Option<String>,
}

/// A page of slashings.
#[derive(Serialize, ToSchema)]
pub(crate) struct SlashingsView {
    schema: u64,
    slashings: Vec<SlashingView>,
    /// Cursor of the next page. Null at the end. A page may have fewer rows than requested and
    /// still have a page after it.
    next: Option<String>,
}

/// What became of a slashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SlashingState {
    /// A block has it.
    Included,
    /// It is in no block that was heard, and a block can still have it.
    Unpublished,
    /// It is in no block, but a block has another slashing of the same validator.
    SlashedByAnother,
    /// It is in no block, and nobody can be punished by it any more.
    Expired,
}

/// One proof, as far as its validators are in the same state.
#[derive(Serialize, ToSchema)]
struct SlashingView {
    /// Id of the proof: `/v1/evidence/{id}`.
    #[schema(value_type = String)]
    evidence: Root,
    #[serde(rename = "type")]
    kind: EvidenceKind,
    #[schema(value_type = Vec<String>)]
    kinds: BTreeSet<Kind>,
    /// The greater of the two messages' slots.
    #[schema(value_type = String)]
    slot: Slot,
    #[schema(value_type = String)]
    fork: ForkName,
    /// The first 64.
    #[schema(value_type = Vec<String>)]
    validators: Vec<ValidatorIndex>,
    n_validators: u64,
    #[serde(skip)]
    #[schema(ignore)]
    all_validators: BTreeSet<ValidatorIndex>,
    /// Ids of the findings of these validators.
    #[schema(value_type = Vec<String>)]
    findings: Vec<Root>,
    labels: BTreeSet<String>,
    /// Arrival of the earlier message.
    #[schema(value_type = String)]
    first_seen: Time,
    /// Arrival of the later message.
    #[schema(value_type = String)]
    proven_at: Time,
    /// As of now, as far as the registry is known here.
    #[schema(value_type = Option<String>)]
    punishable: Option<Punishable>,
    state: SlashingState,
    included: Option<Included>,
    /// Slots from the arrival of the later message to the block that included the slashing.
    delay_slots: Option<u64>,
    /// Slots since the arrival of the later message, of a slashing that is not published.
    waiting_slots: Option<u64>,
    heard_in: BTreeSet<String>,
}

/// Every slashing that is proven here, with the block that included it, or marked as unpublished.
#[utoipa::path(get, path = "/v1/slashings", operation_id = "listSlashings", tag = "findings", params(SlashingsQuery), responses(
    (status = 200, description = "a page", body = SlashingsView),
    (status = 400, description = "a parameter is wrong", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<SlashingsQuery>, QueryRejection>,
) -> Result<Json<SlashingsView>, ProblemDetails> {
    let query = understood(query)?;
    let limit = page_limit(&query.limit)?;
    let order = match query.order.as_deref() {
        None | Some("desc") => SortOrder::NewestFirst,
        Some("asc") => SortOrder::OldestFirst,
        Some(other) => return Err(ProblemDetails::bad_request(format!("order must be asc or desc, not {other:?}"))),
    };
    let included = match query.included.as_deref() {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(other) => return Err(ProblemDetails::bad_request(format!("included must be true or false, not {other:?}"))),
    };
    let after = number(&query.cursor, "cursor")?.unwrap_or(0);
    let (slashings, next) = page(&shared, after, order, included, limit).await?;
    Ok(Json(SlashingsView { schema: 1, slashings, next: next.map(|seq| seq.to_string()) }))
}

/// The newest slashings as RSS 2.0.
#[utoipa::path(get, path = "/v1/slashings.rss", operation_id = "slashingsFeed", tag = "findings", responses(
    (status = 200, description = "the newest 100 slashings", body = String, content_type = "application/rss+xml")))]
pub(crate) async fn rss(State(shared): State<Arc<Shared>>) -> Result<impl IntoResponse, ProblemDetails> {
    let (slashings, _) = page(&shared, 0, SortOrder::NewestFirst, None, FEED_LEN).await?;
    let network = shared.observed.network();
    Ok(([(header::CONTENT_TYPE, "application/rss+xml; charset=utf-8")], feed(&slashings, &network)))
}

async fn page(
    shared: &Arc<Shared>,
    after: u64,
    order: SortOrder,
    included: Option<bool>,
    limit: usize,
) -> Result<(Vec<SlashingView>, Option<u64>), ProblemDetails> {
    let (network, now, privacy) = (shared.observed.network(), shared.observed.recent().now, shared.privacy.clone());
    let (source, slashed, reader) = (shared.observed.clone(), shared.slashed.clone(), shared.clone());
    read(shared, move |store| {
        let outlook = Outlook { now, network, records: BTreeMap::new() };
        let mut rows = Rows { slashings: Vec::new(), included, limit, outlook, slashed, as_of: store.inclusion_changes() };
        let cursor = |stored| Ok::<_, StoreError>(Some(reader.numbers(store)?.shown_cursor(stored, order)));
        let after = reader.numbers(store)?.stored(after);
        let mut query = FindingQuery { after, order, only_public: privacy.only_public(), ..FindingQuery::default() };
        for nth in 0..MAX_CHUNKS {
            // Mostly each finding has a proof of its own, so these are enough. Those that are read
            // beyond the page are parsed for nothing.
            let chunk = store.find(&query, if nth == 0 { limit + 1 } else { CHUNK })?;
            rows.outlook.learn(chunk.findings.iter().map(|(_, finding)| finding), &*source);
            for (seq, finding) in chunk.findings {
                let Some(finding) = privacy.finding(finding) else { continue };
                if !rows.add(&finding, store)? {
                    return Ok((rows.slashings, cursor(query.after)?));
                }
                query.after = seq;
            }
            match chunk.next {
                Some(next) => query.after = next,
                None => return Ok((rows.slashings, None)),
            }
        }
        Ok((rows.slashings, cursor(query.after)?))
    })
    .await
}

/// Judges anew what can still be punished. A finding has the answer of the moment in which it was
/// recorded, and meanwhile its validator may have left, or two forks may have passed.
pub(crate) struct Outlook {
    pub now: Slot,
    pub network: Arc<Network>,
    pub records: BTreeMap<ValidatorIndex, RegistryView>,
}

impl Outlook {
    /// Asks for the records of those who could still be punished when they were found. If the
    /// engine has too much else to do, the answer of that moment stays.
    pub(crate) fn learn<'a>(&mut self, findings: impl Iterator<Item = &'a Finding>, source: &dyn ObservedSource) {
        let open = findings.filter(|finding| finding.included.is_none() && is_possible(finding));
        let wanted: BTreeSet<ValidatorIndex> = open
            .filter_map(|finding| finding.validator.as_ref().map(|subject| subject.index))
            .filter(|validator| !self.records.contains_key(validator))
            .collect();
        if !wanted.is_empty() {
            self.records.extend(source.records(&wanted).unwrap_or_default());
        }
    }

    /// Whether the offence can be punished now.
    pub(crate) fn of(&self, finding: &Finding) -> Option<Punishable> {
        if !is_possible(finding) {
            return finding.punishable;
        }
        let epoch = self.now.epoch(self.network.preset());
        // A block knows the versions of its own fork and of the one before.
        let position = |name: ForkName| self.network.spec.forks.iter().position(|fork| fork.name == name);
        let current = position(self.network.spec.fork_name_at(epoch));
        if let (Some(current), Some(of_finding)) = (current, position(finding.fork))
            && current > of_finding + 1
        {
            return Some(Punishable::ForkExpired);
        }
        let record = finding.validator.as_ref().and_then(|subject| self.records.get(&subject.index));
        match record {
            Some(record) if record.slashed => Some(Punishable::AlreadySlashed),
            Some(record) if record.withdrawable_epoch.is_some_and(|end| end <= epoch) => Some(Punishable::Withdrawable),
            Some(_) | None => finding.punishable,
        }
    }

    /// Whether a block can punish it now.
    pub(crate) fn is_due(&self, finding: &Finding) -> bool {
        self.of(finding).is_some_and(Punishable::is_possible)
    }
}

fn is_possible(finding: &Finding) -> bool {
    finding.punishable.is_some_and(Punishable::is_possible)
}

/// Validators that were looked up, and whether a block has included any slashing of them. It is
/// forgotten when the store has another [`Store::inclusion_changes`], so it is never out of date.
#[derive(Default)]
pub(crate) struct SlashedValidators(Mutex<KnownSlashed>);

#[derive(Default)]
struct KnownSlashed {
    as_of: u64,
    is_slashed: HashMap<ValidatorIndex, bool>,
}

impl SlashedValidators {
    /// Whether a block has included any slashing of the validator. `as_of` is the store's
    /// [`Store::inclusion_changes`] from before it was read, so that what changes meanwhile makes
    /// the result forgotten.
    pub(crate) fn contains(&self, validator: ValidatorIndex, as_of: u64, store: &Store) -> Result<bool, StoreError> {
        if let Some(known) = self.at_least(as_of).is_slashed.get(&validator) {
            return Ok(*known);
        }
        // The first offence is mostly the one that is punished.
        let mut query = FindingQuery { validator: Some(validator), ..FindingQuery::default() };
        let mut found = false;
        for _ in 0..MAX_OF_VALIDATOR / OF_VALIDATOR_STEP {
            let page = store.find(&query, OF_VALIDATOR_STEP)?;
            found = page.findings.iter().any(|(_, finding)| finding.included.is_some());
            match page.next {
                Some(next) if !found => query.after = next,
                Some(_) | None => break,
            }
        }
        let mut known = self.at_least(as_of);
        if known.as_of == as_of {
            known.is_slashed.insert(validator, found);
        }
        Ok(found)
    }

    /// What is known, as of this state of the store or a later one.
    fn at_least(&self, as_of: u64) -> MutexGuard<'_, KnownSlashed> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_of < as_of || known.is_slashed.len() >= MAX_KNOWN_SLASHED {
            *known = KnownSlashed { as_of: known.as_of.max(as_of), is_slashed: HashMap::new() };
        }
        known
    }
}

/// The rows of a page while they are collected.
struct Rows {
    slashings: Vec<SlashingView>,
    included: Option<bool>,
    limit: usize,
    outlook: Outlook,
    slashed: Arc<SlashedValidators>,
    /// The store's [`Store::inclusion_changes`] from before it was read.
    as_of: u64,
}

impl Rows {
    /// Adds an offence to the row of its proof. Returns false if that needs a further row and the
    /// page is full. Anomalies have no proof and are passed over.
    fn add(&mut self, finding: &Finding, store: &Store) -> Result<bool, StoreError> {
        let (Some(reference), Some(subject)) = (&finding.evidence, &finding.validator) else { return Ok(true) };
        if self.included.is_some_and(|wanted| wanted != finding.included.is_some()) {
            return Ok(true);
        }
        let state = self.state(finding, subject.index, store)?;
        let known = self.slashings.iter().rposition(|row| row.evidence == reference.id && row.state == state);
        let at = known.unwrap_or(self.slashings.len());
        if at == self.limit {
            return Ok(false);
        }
        if known.is_none() {
            self.slashings.push(self.new_row(finding, reference.id, reference.kind, state));
        }
        let row = &mut self.slashings[at];
        let is_new = row.all_validators.insert(subject.index);
        row.n_validators = row.all_validators.len() as u64;
        row.kinds.insert(finding.kind.clone());
        row.heard_in.extend(finding.sources.iter().cloned());
        row.first_seen = row.first_seen.min(finding.first_seen);
        if row.findings.len() < MAX_LISTED {
            row.findings.push(finding.id);
            if is_new {
                row.validators.push(subject.index);
            }
            row.labels.extend(subject.labels.clone());
        }
        Ok(true)
    }

    fn state(&self, finding: &Finding, validator: ValidatorIndex, store: &Store) -> Result<SlashingState, StoreError> {
        if finding.included.is_some() {
            return Ok(SlashingState::Included);
        }
        let is_slashed = self.slashed.contains(validator, self.as_of, store)?;
        Ok(match self.outlook.of(finding) {
            _ if is_slashed => SlashingState::SlashedByAnother,
            Some(Punishable::AlreadySlashed) => SlashingState::SlashedByAnother,
            Some(punishable) if punishable.is_possible() => SlashingState::Unpublished,
            Some(_) | None => SlashingState::Expired,
        })
    }

    fn new_row(&self, finding: &Finding, evidence: Root, kind: EvidenceKind, state: SlashingState) -> SlashingView {
        let proven_at = finding.second_seen.unwrap_or(finding.first_seen);
        let proven_in = self.outlook.network.slot_at(proven_at.as_unix_ns());
        SlashingView {
            evidence,
            kind,
            kinds: BTreeSet::new(),
            slot: finding.slot,
            fork: finding.fork,
            validators: Vec::new(),
            n_validators: 0,
            all_validators: BTreeSet::new(),
            findings: Vec::new(),
            labels: BTreeSet::new(),
            first_seen: finding.first_seen,
            proven_at,
            punishable: self.outlook.of(finding),
            state,
            included: finding.included,
            delay_slots: finding.included.map(|included| included.slot.as_u64().saturating_sub(proven_in.as_u64())),
            waiting_slots: (state == SlashingState::Unpublished)
                .then(|| self.outlook.now.as_u64().saturating_sub(proven_in.as_u64())),
            heard_in: BTreeSet::new(),
        }
    }
}

impl SlashingView {
    fn title(&self) -> String {
        let kinds: Vec<String> = self.kinds.iter().map(Kind::words).collect();
        let who = match (self.n_validators, self.validators.first()) {
            (1, Some(one)) => format!("validator {one}"),
            (n, _) => format!("{n} validators"),
        };
        let what = match (self.state, &self.included, self.delay_slots) {
            (SlashingState::Included, Some(included), Some(delay)) => {
                format!("in the block of slot {}, after {delay} slots", included.slot)
            }
            (SlashingState::Included, _, _) => "in a block".to_owned(),
            (SlashingState::Unpublished, _, _) => "in no block yet".to_owned(),
            (SlashingState::SlashedByAnother, _, _) => "in no block, slashed by another".to_owned(),
            (SlashingState::Expired, _, _) => "in no block, not punishable any more".to_owned(),
        };
        format!("{} by {who} in slot {}, {what}", kinds.join(", "), self.slot)
    }
}

/// The feed. Links are relative to the address of the feed, which a reader of feeds knows.
fn feed(slashings: &[SlashingView], network: &Network) -> String {
    let name = escaped(&network.spec.config_name);
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<rss version=\"2.0\"><channel>");
    let _ = write!(
        out,
        "<title>Slashings on {name}</title><link>/slashings</link><description>Slashable messages that were heard on {name}, also \
         those that no block has included</description>"
    );
    for row in slashings {
        // The state is part of the id, so that a reader is told again when a block includes it.
        let state = serde_json::to_string(&row.state).unwrap_or_default().replace('"', "");
        let _ = write!(
            out,
            "\n<item><title>{}</title><link>/v1/evidence/{}.json</link><guid isPermaLink=\"false\">{}-{state}</guid>\
             <pubDate>{}</pubDate><category>{state}</category></item>",
            escaped(&row.title()),
            row.evidence,
            row.evidence,
            row.proven_at.rfc2822()
        );
    }
    out += "\n</channel></rss>\n";
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{Epoch, Gwei};
    use evidence::{Changes, Evidence, OffenceFacts};

    /// What was punishable when it was recorded is judged anew: by the age of its fork, and by the
    /// registry.
    #[test]
    fn whether_somebody_can_be_punished_is_judged_as_of_now() {
        let network = Arc::new(Network::builtin("mainnet").unwrap());
        let record = |slashed, withdrawable: Option<u64>| RegistryView {
            state: "active_ongoing",
            slashed,
            effective_balance: Gwei::new(32_000_000_000),
            activation_epoch: Some(Epoch::new(0)),
            exit_epoch: None,
            withdrawable_epoch: withdrawable.map(Epoch::new),
        };
        let electra = network.spec.forks.iter().find(|fork| fork.name == ForkName::Electra).unwrap().epoch;
        let now = electra.start_slot(network.preset());
        let judged = |fork, punishable, record: Option<RegistryView>| {
            let evidence = Evidence::new(EvidenceKind::AttesterSlashing, fork, vec![1], serde_json::json!({}));
            let finding = Finding::slashable(OffenceFacts { punishable, fork, ..OffenceFacts::sample() }, &evidence);
            let validator = finding.validator.as_ref().unwrap().index;
            let records = record.map(|record| (validator, record)).into_iter().collect();
            Outlook { now, network: network.clone(), records }.of(&finding).unwrap()
        };
        use Punishable::{AlreadySlashed, ForkExpired, Unknown, Withdrawable, Yes};
        assert_eq!(judged(ForkName::Deneb, Yes, None), Yes, "the fork before the current one");
        assert_eq!(judged(ForkName::Capella, Yes, None), ForkExpired);
        assert_eq!(judged(ForkName::Fulu, Unknown, None), Unknown, "a fork that is still to come");
        assert_eq!(judged(ForkName::Electra, Yes, Some(record(false, None))), Yes);
        assert_eq!(judged(ForkName::Electra, Yes, Some(record(true, None))), AlreadySlashed);
        assert_eq!(judged(ForkName::Electra, Yes, Some(record(false, Some(electra.as_u64())))), Withdrawable);
        assert_eq!(judged(ForkName::Electra, Yes, Some(record(false, Some(electra.as_u64() + 1)))), Yes);
        assert_eq!(judged(ForkName::Electra, Withdrawable, Some(record(false, None))), Withdrawable, "a no stays a no");
    }

    /// Whether a block has slashed a validator is remembered, until some finding is included, or is
    /// not any more.
    #[test]
    fn who_is_slashed_is_remembered_until_a_block_changes_it() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Store::open(&dir.path().join(name), OffenceFacts::sample().genesis_validators_root).unwrap();
        let (store, empty) = (open("evidence"), open("empty"));
        let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, vec![1], serde_json::json!({}));
        let finding = Finding::slashable(OffenceFacts::sample(), &evidence);
        let (id, validator) = (finding.id, finding.validator.as_ref().unwrap().index);
        store.record(vec![(finding, Arc::new(evidence))], &[]).unwrap();
        let slashed = SlashedValidators::default();
        let contains = |store: &Store, as_of| slashed.contains(validator, as_of, store).unwrap();
        let included = Included { slot: Slot::new(7), block_root: Root::repeat_byte(7) };
        for (changes, block) in [(0, None), (1, Some(included)), (2, None)] {
            if changes > 0 {
                let inclusions = [(id, block)].into();
                store.apply(Changes { inclusions, ..Changes::default() }, &[]).unwrap();
            }
            assert_eq!(store.inclusion_changes(), changes);
            assert_eq!(contains(&store, changes), block.is_some(), "after {changes} changes");
            assert_eq!(contains(&empty, changes), block.is_some(), "remembered, so that the store is not asked again");
        }
        // A reader that began before the last change gets what is known since, and spoils nothing.
        assert!(!contains(&store, 1));
        assert!(!contains(&store, 2));
    }
}
