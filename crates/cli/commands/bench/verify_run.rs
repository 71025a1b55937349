//! `slashwatch bench verify`: measures signature checking.

use super::load::{BenchFolder, write_keys};
use super::print_report;
use crate::args::BenchVerify;
use crate::exit::UsageError;
use chain::{Chain, PubkeyCache};
use offline::bench::cpu_seconds;
use simulator::load::{Load, LoadMessage, LoadPlan};
use sources::capture::GossipEntry;
use sources::convert::MessageConverter;
use std::sync::Arc;
use verify::{RawMessage, Time};

/// Fields that programs rely on.
const FIELDS: [&str; 4] = ["signatures", "cpu_us_per_signature", "decompress_us", "ratio"];
/// Slots of an epoch on mainnet. The votes are those of one of these slots.
const SLOTS: u64 = 32;

/// Runs the benchmark with one slot of single votes.
pub fn verify(args: &BenchVerify) -> anyhow::Result<u8> {
    if args.votes == 0 || args.distinct_data == 0 || args.distinct_data > args.votes {
        return Err(UsageError("give at least one vote, and as many different data as votes at most".into()).into());
    }
    let plan = LoadPlan::quiet((args.votes * SLOTS) as usize, 1);
    let place = BenchFolder::new(None)?;
    let keys = place.path().join("pubkeys");
    write_keys(plan, &keys)?;
    let load = Load::new(plan, 0)?;
    let converter = MessageConverter::new(Arc::new(load.network().clone()));
    let votes: Vec<RawMessage> = load
        .votes(args.distinct_data)
        .into_iter()
        .map(|vote| {
            let LoadMessage { at_ns, topic, payload, .. } = vote;
            converter.gossip(&GossipEntry { received_at: Time(at_ns), peer: Vec::new(), topic, payload })
        })
        .collect::<Result<_, _>>()?;
    let spec = load.network().spec.clone();
    let state = load.state_ssz();
    drop(load);
    let mut chain = Chain::from_state(spec, &state, &mut PubkeyCache::open(&keys)?, &mut |_| ())?;
    drop(state);
    let report = verify::bench::run(&mut chain, &votes, args.distinct_data, &cpu_seconds).map_err(anyhow::Error::msg)?;
    print_report(&report, &FIELDS, args.form)?;
    Ok(0)
}
