//! All containers of one fork on one preset. They are made once and kept.

use super::{Layout, TypeRef, container};
use crate::{DecodeError, ForkName, Preset, PresetName};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The named types of one fork and preset.
#[derive(Debug)]
pub struct Catalogue {
    types: BTreeMap<&'static str, TypeRef>,
    pub(crate) attestation: TypeRef,
    pub(crate) indexed_attestation: TypeRef,
    pub(crate) attester_slashing: TypeRef,
    pub(crate) signed_aggregate: TypeRef,
    pub(crate) signed_block: TypeRef,
    pub(crate) state: TypeRef,
}

/// Maximum number of catalogues that are kept for configurations that change a preset's sizes. Any
/// further catalogue is made again at each call.
const MAX_CUSTOM_PRESETS: usize = 32;

const N_PRESETS: usize = 3;
const N_FORKS: usize = ForkName::ALL.len();
static PUBLISHED: [[OnceLock<Arc<Catalogue>>; N_FORKS]; N_PRESETS] = [const { [const { OnceLock::new() }; N_FORKS] }; N_PRESETS];

type Custom = Vec<(ForkName, Preset, Arc<Catalogue>)>;
static CUSTOM: Mutex<Custom> = Mutex::new(Vec::new());

impl Catalogue {
    /// Returns the types of `fork` on `preset`.
    pub fn of(fork: ForkName, preset: &Preset) -> Arc<Self> {
        let row = match preset.name {
            PresetName::Mainnet => 0,
            PresetName::Minimal => 1,
            PresetName::Gnosis => 2,
        };
        if *preset == Preset::by_name(preset.name) {
            return PUBLISHED[row][fork as usize].get_or_init(|| Arc::new(Self::make(fork, preset))).clone();
        }
        let mut custom = CUSTOM.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, known)) = custom.iter().find(|(f, p, _)| *f == fork && p == preset) {
            return known.clone();
        }
        let made = Arc::new(Self::make(fork, preset));
        if custom.len() < MAX_CUSTOM_PRESETS {
            custom.push((fork, preset.clone(), made.clone()));
        }
        made
    }

    /// Returns a container by its name in the specification. The error states that this fork has no
    /// such container.
    pub fn get(&self, name: &'static str) -> Result<&TypeRef, DecodeError> {
        self.types.get(name).ok_or_else(|| DecodeError::new(name, "", 0, "this fork has no such container"))
    }

    /// Lists the names of all containers in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.types.keys().copied()
    }

    fn make(fork: ForkName, preset: &Preset) -> Self {
        let mut draft = Draft { fork, preset, types: BTreeMap::new() };
        super::operations::add(&mut draft);
        super::states::add(&mut draft);
        Self {
            attestation: draft.get("Attestation"),
            indexed_attestation: draft.get("IndexedAttestation"),
            attester_slashing: draft.get("AttesterSlashing"),
            signed_aggregate: draft.get("SignedAggregateAndProof"),
            signed_block: draft.get("SignedBeaconBlock"),
            state: draft.get("BeaconState"),
            types: draft.types,
        }
    }
}

/// A catalogue that is being built. A container can use only containers that were added before it.
pub(super) struct Draft<'a> {
    pub(super) fork: ForkName,
    pub(super) preset: &'a Preset,
    types: BTreeMap<&'static str, TypeRef>,
}

impl Draft<'_> {
    /// Returns a container that was added before. Panics if there is none.
    pub(super) fn get(&self, name: &'static str) -> TypeRef {
        self.types.get(name).expect("our own catalogue adds containers before it uses them").clone()
    }

    pub(super) fn since(&self, fork: ForkName) -> bool {
        self.fork >= fork
    }

    /// Returns `limit` before Gloas and `None` from Gloas on, when the list becomes progressive
    /// (EIP-7688).
    pub(super) fn limit(&self, limit: u64) -> Option<u64> {
        (!self.since(ForkName::Gloas)).then_some(limit)
    }

    pub(super) fn add(&mut self, name: &'static str, fields: Vec<(&'static str, TypeRef)>) {
        self.types.insert(name, container(name, fields, Layout::Plain));
    }

    /// Adds a container that EIP-7688 makes progressive from Gloas on.
    pub(super) fn add_stable(&mut self, name: &'static str, fields: Vec<(&'static str, TypeRef)>) {
        self.add_stable_without(name, fields, &[]);
    }

    /// Like [`Draft::add_stable`], but without the fields that this fork removed. From Gloas on,
    /// each removed field leaves a gap at its position.
    pub(super) fn add_stable_without(
        &mut self,
        name: &'static str,
        mut fields: Vec<(&'static str, TypeRef)>,
        removed: &[&'static str],
    ) {
        let gaps: Vec<usize> = (0..fields.len()).filter(|position| removed.contains(&fields[*position].0)).collect();
        fields.retain(|(field, _)| !removed.contains(field));
        let layout = if self.since(ForkName::Gloas) { Layout::Progressive { gaps } } else { Layout::Plain };
        self.types.insert(name, container(name, fields, layout));
    }
}
