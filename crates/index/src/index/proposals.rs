//! Signed headers, by slot and proposer. The header's root is part of the key, so one header never
//! overwrites another.

use crate::storage::{ByteReader, Cf, StoredFirstSeen, WriteBuffer, proposal_prefix, put_varint, source_number, source_of};
use crate::{Conflict, Index, IndexError, StoredProposal};
use consensus::{BeaconBlockHeader, Epoch, Root, SignatureBytes, Slot, ValidatorIndex};
use std::collections::BTreeMap;
use verify::{Proposal, Signed};

/// How many different headers are kept of one proposer and slot. Further ones are only counted. All
/// pairs of the kept headers are reported, which are at most 120.
pub(crate) const MAX_PER_SLOT: usize = 16;

/// Headers that are staged and not committed yet: key and value of their rows.
#[derive(Default)]
pub(crate) struct StagedProposals {
    staged: BTreeMap<[u8; 48], Vec<u8>>,
}

impl StagedProposals {
    pub fn stage(&self, batch: &mut WriteBuffer<'_>) {
        for (key, value) in &self.staged {
            batch.put(Cf::Proposals, key, value);
        }
    }

    pub fn committed(&mut self) {
        self.staged.clear();
    }
}

impl Index {
    /// Stores signed headers. Returns each pair of a new header with a kept one of the same
    /// proposer and slot. A bounded number of headers is kept for each slot, and for slots far
    /// ahead; the others are counted.
    pub fn stage_proposals(&mut self, proposals: &[Signed<Proposal>]) -> Result<Vec<Conflict>, IndexError> {
        let mut conflicts = Vec::new();
        for proposal in proposals {
            let proposal = proposal.get();
            let (slot, proposer) = (proposal.header.slot, proposal.header.proposer_index);
            let stored = self.stored_proposals(slot, proposer)?;
            if stored.iter().any(|other| other.root == proposal.root) {
                continue;
            }
            let epoch = Epoch::new(slot.as_u64() / self.shape.slots_per_epoch);
            if stored.len() >= MAX_PER_SLOT || !self.limits.spend_proposal(epoch) {
                self.counted.proposals_over_cap += 1;
                continue;
            }
            let heard = StoredFirstSeen {
                at_ns: proposal.heard.at.0,
                source: proposal.heard.source,
                peer: self.peers.number(&proposal.heard),
            };
            let second = StoredProposal {
                header: proposal.header,
                root: proposal.root,
                signature: proposal.signature,
                heard: proposal.heard.clone(),
            };
            self.proposals.staged.insert(key(&second), encode(&second, heard));
            self.counted.proposals += 1;
            for first in stored {
                conflicts.push(Conflict::DoubleProposal { validator: proposer, first, second: second.clone() });
                self.counted.conflicts += 1;
            }
        }
        Ok(conflicts)
    }

    /// The headers of one proposer for one slot, ordered by root.
    pub(crate) fn stored_proposals(&self, slot: Slot, proposer: ValidatorIndex) -> Result<Vec<StoredProposal>, IndexError> {
        let prefix = proposal_prefix(slot, proposer);
        let (mut from, mut to) = ([0; 48], [0xff; 48]);
        from[..16].copy_from_slice(&prefix);
        to[..16].copy_from_slice(&prefix);
        let mut found = Vec::new();
        self.db.scan(Cf::Proposals, &from, &to, |key, value| {
            found.push(self.decode_proposal(key, value)?);
            Ok(true)
        })?;
        for (key, value) in self.proposals.staged.range(from..=to) {
            found.push(self.decode_proposal(key, value)?);
        }
        found.sort_by_key(|proposal| proposal.root);
        found.dedup_by_key(|proposal| proposal.root);
        Ok(found)
    }

    /// Visits all headers of the slots `from..=to`.
    pub(crate) fn proposals_between(
        &self,
        from: Slot,
        to: Slot,
        mut visit: impl FnMut(StoredProposal),
    ) -> Result<(), IndexError> {
        let (mut first, mut last) = ([0; 48], [0xff; 48]);
        first[..8].copy_from_slice(&from.as_u64().to_be_bytes());
        last[..8].copy_from_slice(&to.as_u64().to_be_bytes());
        self.db.scan(Cf::Proposals, &first, &last, |key, value| {
            if !self.proposals.staged.contains_key(key) {
                visit(self.decode_proposal(key, value)?);
            }
            Ok(true)
        })?;
        for (key, value) in self.proposals.staged.range(first..=last) {
            visit(self.decode_proposal(key, value)?);
        }
        Ok(())
    }

    fn decode_proposal(&self, key: &[u8], value: &[u8]) -> Result<StoredProposal, IndexError> {
        let parse = || {
            let mut reader = ByteReader(key);
            let slot = Slot::new(u64::from_be_bytes(reader.array()?));
            let proposer_index = ValidatorIndex::new(u64::from_be_bytes(reader.array()?));
            let root = Root::from(reader.array()?);
            let mut reader = ByteReader(value);
            let header = BeaconBlockHeader {
                slot,
                proposer_index,
                parent_root: Root::from(reader.array()?),
                state_root: Root::from(reader.array()?),
                body_root: Root::from(reader.array()?),
            };
            let signature = SignatureBytes::from(reader.array::<96>()?);
            let at_ns = u64::from_be_bytes(reader.array()?);
            let source = source_of(reader.byte()?)?;
            let heard = self.heard(StoredFirstSeen { at_ns, source, peer: reader.varint_u32()? });
            reader.is_empty().then_some(StoredProposal { header, root, signature, heard })
        };
        parse().ok_or_else(|| self.db.corrupt("a proposal's row does not parse"))
    }
}

fn key(proposal: &StoredProposal) -> [u8; 48] {
    let mut key = [0; 48];
    key[..16].copy_from_slice(&proposal_prefix(proposal.header.slot, proposal.header.proposer_index));
    key[16..].copy_from_slice(proposal.root.as_slice());
    key
}

fn encode(proposal: &StoredProposal, heard: StoredFirstSeen) -> Vec<u8> {
    let header = &proposal.header;
    let mut out = Vec::with_capacity(3 * 32 + 96 + 16);
    for root in [header.parent_root, header.state_root, header.body_root] {
        out.extend_from_slice(root.as_slice());
    }
    out.extend_from_slice(proposal.signature.as_slice());
    out.extend_from_slice(&heard.at_ns.to_be_bytes());
    out.push(source_number(heard.source));
    put_varint(&mut out, u64::from(heard.peer));
    out
}
