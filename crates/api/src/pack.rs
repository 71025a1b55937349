//! The evidence pack of an incident: everything that somebody needs who must decide within minutes
//! whether it is real, whose it is, and what to do. One zip file that can be sent to others.
//!
//! | file | what |
//! |---|---|
//! | `README.md` | what is in it, and how to check each proof |
//! | `incident.json`, `findings.jsonl` | the records, as the API shows them |
//! | `proofs/<id>.json`, `.ssz` | a choice of proofs that accuses every validator of the incident |
//! | `config.yaml`, `network.json` | the network, so that the folder can be given to `verify-proof` |
//! | `keys.json` | public keys of all signers of these proofs, by index |
//! | `members.csv` | whose keys: index, key, labels, groups, offences, what differs, state |
//! | `next.csv` | who is next: validators with the same label or group that are not among them |
//! | `capture.e2s` | the messages of the proofs, for `slashwatch replay` |
//! | `interchange.json` | EIP-3076: what the network saw the members sign |
//! | `timeline.md`, `post-mortem.md` | in UTC, and a draft |
//!
//! Texts from the network are escaped. What readers may not see is left out, as everywhere.

mod text;
mod zip;

use crate::incidents::findings_query;
use crate::observed::{CapturedProof, ObservedSource, PackCapture, ReadError};
use crate::privacy::{OwnKeys, Privacy};
use crate::watch::{KillSwitchView, WatchSource};
use consensus::interchange::Interchange;
use consensus::{
    AttestationData, AttesterSlashing, BeaconBlockHeader, Network, ProposerSlashing, PubkeyBytes, Root, Slot, ValidatorIndex,
};
use evidence::{Evidence, EvidenceKind, Finding, Incident, Kind, Punishable, Store, StoreError, Time};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use zip::ZipFile;

/// Findings that are read for a pack, and how many at once.
const MAX_FINDINGS: usize = 50_000;
const CHUNK: usize = 1000;
/// Limits of the proofs: their number, and the size of all in SSZ.
const MAX_PROOFS: usize = 512;
const MAX_PROOF_BYTES: usize = 32 << 20;
/// With more members than this, `interchange.json` has the minimal form.
const MAX_COMPLETE: usize = 512;
/// Limit on the validators in `next.csv`, and on the labels that are followed.
const MAX_NEXT: usize = 2000;
const MAX_LABELS: usize = 4;
/// Limit on the kill switches that the draft tells about.
const MAX_SWITCHES: usize = 100;

/// Why there is no pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A validator of the incident.
struct Member {
    pubkey: PubkeyBytes,
    labels: Vec<String>,
    /// The operator's own groups that it is in, now or when the finding was recorded.
    groups: BTreeSet<String>,
    /// Offences by kind.
    kinds: BTreeMap<Kind, u64>,
    /// When the first message of its first offence was heard, as `first_seen` of a finding.
    first_seen: Time,
    /// When it had contradicted itself for the first and for the last time.
    first: Time,
    last: Time,
    /// What differs between the two messages, as far as its proofs are in the pack.
    differs: BTreeSet<&'static str>,
    /// The slot of the block that has a proof against it.
    included: Option<Slot>,
    /// Of its last offence.
    punishable: Option<Punishable>,
    proofs: BTreeSet<Root>,
}

/// Names the network, in the form of `network.json` of a data directory.
#[derive(serde::Serialize)]
struct NetworkFile<'a> {
    format: u32,
    genesis_validators_root: Root,
    genesis_time: u64,
    config_name: &'a str,
}

impl<'a> NetworkFile<'a> {
    fn of(network: &'a Network) -> Self {
        let Network { spec, genesis_time, genesis_validators_root } = network;
        Self {
            format: 1,
            genesis_validators_root: *genesis_validators_root,
            genesis_time: *genesis_time,
            config_name: &spec.config_name,
        }
    }
}

/// All that goes into a pack.
struct Contents<'a> {
    network: &'a Network,
    incident: &'a Incident,
    findings: Vec<Finding>,
    findings_left_out: bool,
    members: BTreeMap<ValidatorIndex, Member>,
    proofs: Vec<Evidence>,
    /// Signers of the proofs whose keys are known.
    keys: BTreeMap<ValidatorIndex, PubkeyBytes>,
    next: Vec<crate::LabelledValidator>,
    /// The labels by which `next` was chosen.
    next_labels: Vec<String>,
    /// Kill switches of the groups that are hit, by group.
    switches: Vec<(String, KillSwitchView)>,
    interchange: Option<Interchange>,
    is_minimal: bool,
    capture: Option<PackCapture>,
}

/// The pack of an incident, as a zip file. `None` if there is no such incident, or if readers may
/// not see it. It reads from the disk and takes up to some seconds.
pub(crate) fn build(
    store: &Store,
    source: &dyn ObservedSource,
    privacy: &Privacy,
    id: Root,
) -> Result<Option<Vec<u8>>, PackError> {
    let Some(incident) = store.incident(id)?.and_then(|incident| privacy.incident(incident)) else { return Ok(None) };
    let network = source.network();
    let (findings, findings_left_out) = findings_of(store, &network, privacy, &incident)?;
    let mut members = members_of(&findings);
    name_groups(&mut members, privacy);
    let proofs = choose(store, &findings, &mut members)?;
    let signers: BTreeSet<ValidatorIndex> = proofs.iter().flat_map(signers).collect();
    let mut keys = source.pubkeys(&signers)?;
    keys.extend(members.iter().filter(|(index, _)| signers.contains(index)).map(|(index, member)| (*index, member.pubkey)));
    let (next, next_labels) = next(source, privacy, &incident, &members);
    let is_minimal = members.len() > MAX_COMPLETE;
    let wanted = members.iter().map(|(index, member)| (*index, member.pubkey)).collect();
    let interchange = if members.is_empty() { None } else { source.histories(&wanted, is_minimal)? };
    let interchange = interchange.map(|data| Interchange { data, ..Interchange::new(network.genesis_validators_root) });
    let capture = if proofs.is_empty() { None } else { source.capture(&by_arrival(&proofs, &findings))? };
    let switches = switches(privacy, &findings, &members);
    let contents = Contents {
        network: &network,
        incident: &incident,
        findings,
        findings_left_out,
        members,
        proofs,
        keys,
        next,
        next_labels,
        switches,
        interchange,
        is_minimal,
        capture,
    };
    Ok(Some(contents.zip()))
}

/// The pack of an incident for the operator itself: nothing is left out. `watch` knows the groups
/// and their kill switches. `None` if there is no such incident.
pub fn incident_pack(
    store: &Store,
    source: &dyn ObservedSource,
    watch: Arc<dyn WatchSource>,
    id: Root,
) -> Result<Option<Vec<u8>>, PackError> {
    let privacy = Privacy { own_keys: OwnKeys::Shown, watch, shows_addresses: true };
    build(store, source, &privacy, id)
}

/// The offences of the incident, oldest first. The second value says whether there are more.
fn findings_of(
    store: &Store,
    network: &Network,
    privacy: &Privacy,
    incident: &Incident,
) -> Result<(Vec<Finding>, bool), StoreError> {
    let mut query = findings_query(network, incident);
    let mut findings = Vec::new();
    loop {
        let page = store.find(&query, CHUNK)?;
        let shown = page.findings.into_iter().filter_map(|(_, finding)| privacy.finding(finding));
        findings.extend(shown.filter(|finding| finding.evidence.is_some()));
        match page.next {
            Some(next) if findings.len() < MAX_FINDINGS => query.after = next,
            next => {
                findings.sort_by_key(|finding| (finding.second_seen, finding.id));
                return Ok((findings, next.is_some()));
            }
        }
    }
}

fn members_of(findings: &[Finding]) -> BTreeMap<ValidatorIndex, Member> {
    let mut members: BTreeMap<ValidatorIndex, Member> = BTreeMap::new();
    for finding in findings {
        let (Some(subject), Some(reference)) = (&finding.validator, &finding.evidence) else { continue };
        let seen = finding.second_seen.unwrap_or(finding.first_seen);
        let member = members.entry(subject.index).or_insert_with(|| Member {
            pubkey: subject.pubkey,
            labels: subject.labels.clone(),
            groups: BTreeSet::new(),
            kinds: BTreeMap::new(),
            first_seen: finding.first_seen,
            first: seen,
            last: seen,
            differs: BTreeSet::new(),
            included: None,
            punishable: None,
            proofs: BTreeSet::new(),
        });
        *member.kinds.entry(finding.kind.clone()).or_default() += 1;
        member.first_seen = member.first_seen.min(finding.first_seen);
        member.first = member.first.min(seen);
        member.last = member.last.max(seen);
        member.proofs.insert(reference.id);
        if let Some(included) = &finding.included {
            member.included = Some(included.slot);
        }
        member.punishable = finding.punishable.or(member.punishable);
    }
    members
}

/// Adds the groups of each member, as far as readers may see them.
fn name_groups(members: &mut BTreeMap<ValidatorIndex, Member>, privacy: &Privacy) {
    let watch = privacy.watch().ok();
    for (index, member) in members {
        let now = watch.as_ref().map_or_else(Vec::new, |watch| watch.groups_of(*index));
        let then = member.labels.iter().filter_map(|label| label.strip_prefix("group=")).map(str::to_owned);
        member.groups = privacy.groups(now).into_iter().chain(then).collect();
    }
}

/// Chooses proofs, the earliest first, so that every member is accused by at least one, as far as
/// the limits allow. Says of each member what differs.
fn choose(
    store: &Store,
    findings: &[Finding],
    members: &mut BTreeMap<ValidatorIndex, Member>,
) -> Result<Vec<Evidence>, StoreError> {
    let (mut chosen, mut n_bytes): (Vec<Evidence>, usize) = (Vec::new(), 0);
    let mut accused: BTreeSet<ValidatorIndex> = BTreeSet::new();
    for finding in findings {
        let (Some(subject), Some(reference)) = (&finding.validator, &finding.evidence) else { continue };
        if accused.contains(&subject.index) || chosen.iter().any(|proof| proof.id == reference.id) {
            continue;
        }
        let Some(proof) = store.evidence(reference.id)? else { continue };
        if chosen.len() == MAX_PROOFS || n_bytes + proof.ssz.len() > MAX_PROOF_BYTES {
            break;
        }
        n_bytes += proof.ssz.len();
        accused.insert(subject.index);
        accused.extend(proof.accused());
        let differs = differing(&proof);
        for member in members.values_mut().filter(|member| member.proofs.contains(&proof.id)) {
            member.differs.extend(differs.iter().copied());
        }
        chosen.push(proof);
    }
    Ok(chosen)
}

/// The kill switches of the groups that have members in the incident, and those that one of its
/// findings has fired.
fn switches(
    privacy: &Privacy,
    findings: &[Finding],
    members: &BTreeMap<ValidatorIndex, Member>,
) -> Vec<(String, KillSwitchView)> {
    let Ok(watch) = privacy.watch() else { return Vec::new() };
    let mut hit: BTreeSet<String> = members.keys().flat_map(|index| watch.groups_of(*index)).collect();
    let of_then = members.values().flat_map(|member| &member.labels).filter_map(|label| label.strip_prefix("group="));
    hit.extend(of_then.map(str::to_owned));
    let found: BTreeSet<Root> = findings.iter().map(|finding| finding.id).collect();
    let with_switch = watch.groups().into_iter().filter_map(|group| Some((group.name, group.kill_switch?)));
    let concerned = with_switch
        .filter(|(name, switch)| hit.contains(name) || switch.orders().iter().any(|order| found.contains(&order.finding)));
    concerned.take(MAX_SWITCHES).collect()
}

/// The proofs with the time at which each was complete, in this order.
fn by_arrival<'a>(proofs: &'a [Evidence], findings: &[Finding]) -> Vec<CapturedProof<'a>> {
    let mut complete: BTreeMap<Root, Time> = BTreeMap::new();
    for finding in findings {
        if let Some(reference) = &finding.evidence {
            let at = finding.second_seen.unwrap_or(finding.first_seen);
            complete.entry(reference.id).and_modify(|first| *first = at.min(*first)).or_insert(at);
        }
    }
    let with_time = |evidence: &'a Evidence| Some(CapturedProof { evidence, at: *complete.get(&evidence.id)? });
    let mut all: Vec<CapturedProof<'a>> = proofs.iter().filter_map(with_time).collect();
    all.sort_by_key(|proof| (proof.at, proof.evidence.id));
    all
}

/// The fields in which the two messages of a proof differ.
fn differing(proof: &Evidence) -> Vec<&'static str> {
    match proof.kind {
        EvidenceKind::AttesterSlashing => serde_json::from_value(proof.json.clone()).map_or_else(
            |_| Vec::new(),
            |slashing: AttesterSlashing| differing_fields(&slashing.attestation_1.data, &slashing.attestation_2.data),
        ),
        EvidenceKind::ProposerSlashing => serde_json::from_value(proof.json.clone()).map_or_else(
            |_| Vec::new(),
            |slashing: ProposerSlashing| {
                differing_header_fields(&slashing.signed_header_1.message, &slashing.signed_header_2.message)
            },
        ),
    }
}

/// The names of the fields in which two votes differ.
pub fn differing_fields(one: &AttestationData, two: &AttestationData) -> Vec<&'static str> {
    let fields = [
        ("slot", one.slot != two.slot),
        ("index", one.index != two.index),
        ("beacon_block_root", one.beacon_block_root != two.beacon_block_root),
        ("source.epoch", one.source.epoch != two.source.epoch),
        ("source.root", one.source.root != two.source.root),
        ("target.epoch", one.target.epoch != two.target.epoch),
        ("target.root", one.target.root != two.target.root),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// The names of the fields in which two headers differ.
pub fn differing_header_fields(one: &BeaconBlockHeader, two: &BeaconBlockHeader) -> Vec<&'static str> {
    let fields = [
        ("parent_root", one.parent_root != two.parent_root),
        ("state_root", one.state_root != two.state_root),
        ("body_root", one.body_root != two.body_root),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

fn signers(proof: &Evidence) -> Vec<ValidatorIndex> {
    let index = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let of_vote = |vote: &str| proof.json.pointer(&format!("/{vote}/attesting_indices")).and_then(Value::as_array);
    match proof.kind {
        EvidenceKind::AttesterSlashing => {
            let both = ["attestation_1", "attestation_2"].into_iter().filter_map(of_vote);
            both.flatten().filter_map(index).collect()
        }
        EvidenceKind::ProposerSlashing => proof.accused(),
    }
}

/// Validators with a label that most members share, and that are not among them.
fn next(
    source: &dyn ObservedSource,
    privacy: &Privacy,
    incident: &Incident,
    members: &BTreeMap<ValidatorIndex, Member>,
) -> (Vec<crate::LabelledValidator>, Vec<String>) {
    let mut labels: Vec<(u64, String)> = Vec::new();
    for shared in &incident.shared {
        if let Some(key) = shared.what.strip_prefix("label:") {
            labels.push((shared.members.0, format!("{key}={}", shared.value)));
        }
    }
    let mut counts: BTreeMap<&String, u64> = BTreeMap::new();
    for label in members.values().flat_map(|member| &member.labels) {
        *counts.entry(label).or_default() += 1;
    }
    labels.extend(counts.into_iter().map(|(label, n)| (n, label.clone())));
    labels.sort_by(|a, b| b.cmp(a));
    let mut chosen: Vec<String> = Vec::new();
    for (_, label) in labels.into_iter().filter(|(_, label)| privacy.label(label.clone()).is_ok()) {
        if chosen.len() < MAX_LABELS && !chosen.contains(&label) {
            chosen.push(label);
        }
    }
    let mut rows: BTreeMap<ValidatorIndex, crate::LabelledValidator> = BTreeMap::new();
    for label in &chosen {
        let all = source.labelled(label, None, MAX_NEXT + members.len());
        for mut row in all.into_iter().filter(|row| !members.contains_key(&row.index)).take(MAX_NEXT) {
            row.labels = privacy.labels(row.index, row.labels);
            row.groups = privacy.groups(row.groups);
            rows.insert(row.index, row);
        }
    }
    (rows.into_values().take(MAX_NEXT).collect(), chosen)
}

impl Contents<'_> {
    fn zip(&self) -> Vec<u8> {
        let mut file = ZipFile::new(&format!("incident-{}", self.name()));
        let config = self.network.spec.to_yaml();
        file.add("README.md", self.readme().as_bytes());
        // With these two the unpacked folder is a network for `verify-proof`, in the form of a data
        // directory.
        file.add("config.yaml", config.as_bytes());
        file.add("network.json", &json(&NetworkFile::of(self.network)));
        file.add("post-mortem.md", self.post_mortem().as_bytes());
        file.add("timeline.md", self.timeline().as_bytes());
        file.add("members.csv", self.members_csv().as_bytes());
        if !self.next.is_empty() {
            file.add("next.csv", self.next_csv().as_bytes());
        }
        file.add("incident.json", &json(self.incident));
        let lines: Vec<Vec<u8>> = self.findings.iter().map(json).collect();
        file.add("findings.jsonl", &lines.concat());
        let keys: BTreeMap<String, &PubkeyBytes> = self.keys.iter().map(|(index, key)| (index.to_string(), key)).collect();
        file.add("keys.json", &json(&keys));
        if let Some(interchange) = &self.interchange {
            file.add("interchange.json", &json(interchange));
        }
        if let Some(capture) = &self.capture {
            file.add("capture.e2s", &capture.bytes);
        }
        for proof in &self.proofs {
            file.add(&format!("proofs/{}", proof.file_name("json")), &json(&proof.json));
            file.add(&format!("proofs/{}", proof.file_name("ssz")), &proof.ssz);
        }
        file.finish()
    }

    /// The first bytes of the incident's id.
    fn name(&self) -> String {
        self.incident.id.to_string().chars().skip(2).take(8).collect()
    }

    fn members_csv(&self) -> String {
        let mut out = String::from(
            "validator,pubkey,labels,groups,offences,differs,first_seen,contradicted_at,last_seen,punishable,included_in_slot,proofs\n",
        );
        for (index, member) in &self.members {
            let kinds: Vec<String> = member.kinds.iter().map(|(kind, n)| format!("{kind}:{n}")).collect();
            // The words of the API.
            let punishable = member.punishable.and_then(|punishable| serde_json::to_value(punishable).ok());
            let proofs: Vec<String> = member.proofs.iter().map(Root::to_string).collect();
            let differs: Vec<&str> = member.differs.iter().copied().collect();
            let groups: Vec<&str> = member.groups.iter().map(String::as_str).collect();
            let fields = [
                index.to_string(),
                member.pubkey.to_string(),
                member.labels.join(" "),
                groups.join(" "),
                kinds.join(" "),
                differs.join(" "),
                member.first_seen.to_string(),
                member.first.to_string(),
                member.last.to_string(),
                punishable.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(),
                member.included.as_ref().map(Slot::to_string).unwrap_or_default(),
                proofs.join(" "),
            ];
            let _ = writeln!(out, "{}", fields.map(|field| text::csv_field(&field)).join(","));
        }
        out
    }

    fn next_csv(&self) -> String {
        let mut out = String::from("validator,pubkey,labels,groups\n");
        for row in &self.next {
            let pubkey = row.pubkey.map(|pubkey| pubkey.to_string()).unwrap_or_default();
            let fields = [row.index.to_string(), pubkey, row.labels.join(" "), row.groups.join(" ")];
            let _ = writeln!(out, "{}", fields.map(|field| text::csv_field(&field)).join(","));
        }
        out
    }
}

/// A line of JSON.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("it has string keys only");
    bytes.push(b'\n');
    bytes
}
