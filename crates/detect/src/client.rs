//! Which client a validator runs, as far as its blocks show.
//!
//! Nothing in a vote names the software. A block's graffiti often does, by name
//! (`Lighthouse/v8.0.0`) or by the two-letter codes that nodes write there by themselves
//! (`GEabcdLHef01`: execution client, commit, consensus client, commit; execution-apis,
//! engine/identification.md). A validator's own block counts for that validator. Validators with
//! the same withdrawal credentials mostly run in one place, so a validator that proposed nothing
//! itself gets the client of the others. If the graffiti names no client, the block's own shape may
//! ([`fingerprint`]). A name always takes precedence over a shape.
//!
//! Limits: two bytes per validator, and about 12 per credential seen. An operator can write
//! anything into its graffiti, so the result is a hint and is reported as one.

pub mod fingerprint;

use chain::Chain;
use consensus::{SignedBlock, ValidatorIndex};
use fingerprint::{Fingerprints, Shape};
use std::collections::HashMap;

/// Number of known consensus clients, with "unknown". Clients are positions in tables of this size.
pub const N_CLIENTS: usize = 9;
/// Position of "unknown".
pub const UNKNOWN: usize = 0;
const NAMES: [&str; N_CLIENTS] = ["unknown", "lighthouse", "prysm", "teku", "nimbus", "lodestar", "grandine", "caplin", "vouch"];
const CODES: [(&str, usize); 7] = [("LH", 1), ("PM", 2), ("TK", 3), ("NB", 4), ("LS", 5), ("GR", 6), ("CN", 7)];
const EXECUTION_CODES: [&str; 8] = ["GE", "NM", "BU", "EG", "RH", "EJ", "TE", "EX"];
/// Largest number of withdrawal credentials that are remembered.
const MAX_CREDENTIALS: usize = 1 << 18;

/// Numbers of votes, blocks or peers by client.
pub type ByClient = [u64; N_CLIENTS];

/// Name of a client by its position.
pub fn client_name(client: usize) -> &'static str {
    NAMES.get(client).copied().unwrap_or(NAMES[UNKNOWN])
}

/// Position of the client that a graffiti or a peer's agent string names; [`UNKNOWN`] if it names
/// none.
pub fn client_of_text(text: &[u8]) -> usize {
    let lower: Vec<u8> = text.iter().map(u8::to_ascii_lowercase).collect();
    for (client, name) in NAMES.iter().enumerate().skip(1) {
        if lower.windows(name.len()).any(|window| window == name.as_bytes()) {
            return client;
        }
    }
    if lower.windows(6).any(|window| window == b"erigon") {
        return 7;
    }
    by_code(text).unwrap_or(UNKNOWN)
}

/// The client of a code such as `GEabcdLHef01`, or of its shorter forms down to `GELH`.
fn by_code(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?;
    let word = text.split(|c: char| !c.is_ascii_alphanumeric()).find(|word| word.len() >= 4)?;
    let execution = word.get(..2)?;
    if !EXECUTION_CODES.contains(&execution) {
        return None;
    }
    let rest = word.get(2..)?.trim_start_matches(|c: char| c.is_ascii_hexdigit() && !c.is_ascii_uppercase());
    let code = rest.get(..2)?;
    CODES.iter().find(|(known, _)| *known == code).map(|(_, client)| *client)
}

/// Which validator runs which client, as learnt so far.
#[derive(Debug, Default)]
pub struct Clients {
    /// By the graffiti of a validator's own blocks.
    own: Vec<u8>,
    /// By the shape of the last block of a validator whose shape names a client.
    by_shape: Vec<u8>,
    fingerprints: Fingerprints,
    by_credential: HashMap<u32, [u8; N_CLIENTS]>,
    n_known: usize,
}

impl Clients {
    /// Learns from a proven block. Returns the client that its graffiti names, else the client that
    /// its shape names, else what is known of its proposer.
    pub fn learn(&mut self, block: &SignedBlock, chain: &Chain) -> usize {
        let proposer = block.signed_header.message.proposer_index;
        let shape = Shape::of(block);
        let named = client_of_text(&block.graffiti);
        let limit = chain.registry().len();
        self.fingerprints.learn(shape, named);
        if named != UNKNOWN {
            self.n_known += usize::from(put(&mut self.own, proposer, named, limit) == UNKNOWN);
            self.learn_credential(proposer, named, chain);
            return named;
        }
        let shaped = self.fingerprints.client_of(&shape);
        if shaped != UNKNOWN {
            self.n_known += usize::from(put(&mut self.by_shape, proposer, shaped, limit) == UNKNOWN);
        }
        self.of(proposer, chain)
    }

    /// The client that a validator runs: by its own blocks' graffiti, else by most blocks of its
    /// credentials, else by the shape of its own block.
    pub fn of(&self, validator: ValidatorIndex, chain: &Chain) -> usize {
        if self.n_known == 0 {
            return UNKNOWN;
        }
        let own = at(&self.own, validator);
        if own != UNKNOWN {
            return own;
        }
        match self.by_credentials(validator, chain) {
            UNKNOWN => at(&self.by_shape, validator),
            client => client,
        }
    }

    /// Number of validators that are known by their own blocks. One that is known by name and by
    /// shape counts twice.
    pub fn n_known(&self) -> usize {
        self.n_known
    }

    fn learn_credential(&mut self, proposer: ValidatorIndex, client: usize, chain: &Chain) {
        if let Some(credential) = chain.registry().credential_number(proposer)
            && (self.by_credential.len() < MAX_CREDENTIALS || self.by_credential.contains_key(&credential))
        {
            let counts = self.by_credential.entry(credential).or_default();
            counts[client] = counts[client].saturating_add(1);
        }
    }

    fn by_credentials(&self, validator: ValidatorIndex, chain: &Chain) -> usize {
        let counts = chain.registry().credential_number(validator).and_then(|number| self.by_credential.get(&number));
        let Some(counts) = counts else { return UNKNOWN };
        let (client, most) = counts.iter().enumerate().max_by_key(|(_, n)| **n).unwrap_or((UNKNOWN, &0));
        let all: u32 = counts.iter().map(|n| u32::from(*n)).sum();
        // At least four fifths must be of one client. Otherwise this is an operator of several
        // clients.
        if u32::from(*most) * 5 >= all * 4 { client } else { UNKNOWN }
    }
}

fn at(table: &[u8], validator: ValidatorIndex) -> usize {
    let known = usize::try_from(validator.as_u64()).ok().and_then(|index| table.get(index));
    known.map_or(UNKNOWN, |client| usize::from(*client))
}

/// Sets an entry of a table for `limit` validators and returns the old value. A validator at or
/// above `limit` is ignored: then `client` is returned.
fn put(table: &mut Vec<u8>, validator: ValidatorIndex, client: usize, limit: usize) -> usize {
    let Some(index) = usize::try_from(validator.as_u64()).ok().filter(|index| *index < limit) else { return client };
    if table.len() <= index {
        table.resize(limit, UNKNOWN as u8);
    }
    usize::from(std::mem::replace(&mut table[index], client as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes() {
        for (graffiti, name) in [
            ("Lighthouse/v8.0.0", "lighthouse"),
            ("prysm-v7.0.0 operator", "prysm"),
            ("GEabcdLHef01", "lighthouse"),
            ("NM12TKab", "teku"),
            ("BUPM hello", "prysm"),
            ("gm", "unknown"),
            ("", "unknown"),
            ("GEabcd", "unknown"),
            ("erigon/caplin v3", "caplin"),
        ] {
            assert_eq!(client_name(client_of_text(graffiti.as_bytes())), name, "{graffiti}");
        }
        assert_eq!(client_of_text(&[0xff; 32]), UNKNOWN);
    }
}
