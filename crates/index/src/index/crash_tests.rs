//! Kills the process with SIGKILL at any point and feeds the rest of the votes again: the conflicts
//! must be the same.
//!
//! A child process runs this test binary, which recognizes by an environment variable that it is
//! the child. It feeds a fixed sequence of votes and acknowledges each commit. It is killed at
//! certain points inside the commit, or by the parent at any moment. Then it is started again on
//! the same directory, from the first vote that it had not acknowledged. All conflicts that it
//! reported in all its lives together must be those of a run without a kill.

use crate::{Conflict, Index, Shape};
use consensus::{
    AttestationData, Checkpoint, CommitteeIndex, Epoch, Preset, Root, Shuffling, SignatureBytes, Slot, ValidatorIndex,
};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock};
use verify::{FirstSeen, Signed, SourceKind, Time, Vote};

/// Number of kills in an ordinary run: a third at injected points, a third at any moment, and a
/// third inside a write to a file. The environment variable [`KILLS`] sets another number.
const DEFAULT_KILLS: u64 = 24;
const KILLS: &str = "SLASHWATCH_KILLS";
const DIR: &str = "SLASHWATCH_INDEX_CRASH_DIR";
const FROM: &str = "SLASHWATCH_INDEX_CRASH_FROM";
const ABORT: &str = "SLASHWATCH_INDEX_CRASH_ABORT";
const UNFLUSHED: &str = "SLASHWATCH_INDEX_CRASH_UNFLUSHED";
const N_BATCHES: u64 = 60;
/// The signal that Linux sends when a file exceeds the size limit.
const SIGXFSZ: i32 = 25;

/// Called inside a commit, in tests only. Ends the process like a kill, if this is the point and
/// the commit that the environment variable names.
pub(crate) fn abort_point(point: &str, n_commits: u64) {
    if std::env::var(ABORT).is_ok_and(|wanted| wanted == format!("{point}:{n_commits}")) {
        // As with SIGKILL, nothing is flushed and no destructor runs.
        std::process::abort();
    }
}

/// A valid point that serves as every signature.
static POINT: LazyLock<[u8; 96]> = LazyLock::new(|| {
    let key = blst::min_pk::SecretKey::key_gen(&[7; 32], &[]).unwrap();
    key.sign(b"any", b"TEST", &[]).to_bytes()
});

fn shape() -> Shape {
    Shape { genesis_validators_root: Root::repeat_byte(1), slots_per_epoch: 8, history_epochs: 100 }
}

fn shuffling(epoch: u64) -> Arc<Shuffling> {
    let seed = Root::repeat_byte(epoch as u8);
    Arc::new(Shuffling::new(Epoch::new(epoch), Root::ZERO, seed, Arc::new((0..96).collect()), &Preset::MINIMAL))
}

/// The votes of batch `n`. There are four batches per epoch. Most validators vote normally, some
/// vote twice, and some surround other votes.
fn batch(n: u64) -> Vec<Signed<Vote>> {
    let epoch = 2 + n / 4;
    let shuffling = shuffling(epoch);
    let mut votes = Vec::new();
    for slot in 0..8 {
        for committee in 0..shuffling.committees_per_slot() {
            let at = Slot::new(epoch * 8 + slot);
            let members = shuffling.committee(at, CommitteeIndex::new(committee)).unwrap();
            let mine: Vec<u32> = members.iter().copied().filter(|v| u64::from(v % 4) == n % 4).collect();
            for validator in mine {
                votes.push(single(epoch, epoch - 1, slot, 0, validator, Some(&shuffling)));
            }
        }
    }
    let odd = (n * 7 % 96) as u32;
    match n % 3 {
        0 => votes.push(single(epoch, epoch - 1, n % 8, 9, odd, None)),
        1 => votes.push(single(epoch + 3, epoch - 2, n % 8, 9, odd, None)),
        _ => votes.push(single(epoch.saturating_sub(3), epoch.saturating_sub(3), n % 8, 9, odd, None)),
    }
    votes
}

fn single(target: u64, source: u64, slot: u64, head: u8, validator: u32, shuffling: Option<&Arc<Shuffling>>) -> Signed<Vote> {
    let data = AttestationData {
        slot: Slot::new(target * 8 + slot),
        index: CommitteeIndex::new(0),
        beacon_block_root: Root::repeat_byte(head),
        source: Checkpoint { epoch: Epoch::new(source), root: Root::ZERO },
        target: Checkpoint { epoch: Epoch::new(target), root: Root::ZERO },
    };
    // Any point except infinity is good enough, because the test only compares which validators are
    // reported.
    let bytes = *POINT;
    let heard = FirstSeen { at: Time(1), source: SourceKind::Gossip, peer: None };
    Signed::for_tests(Vote {
        data,
        data_root: data.root(),
        indices: vec![ValidatorIndex::new(u64::from(validator))],
        arrivals: vec![heard.arrival()],
        signature: SignatureBytes::from(bytes),
        shuffling: shuffling.cloned(),
        signed_with: None,
        heard,
    })
}

fn name(conflict: &Conflict) -> String {
    match conflict {
        Conflict::DoubleVote { validator, first, second, .. } => {
            let (a, b) = (first.data_root.min(second.data_root), first.data_root.max(second.data_root));
            format!("double {validator} {a} {b}")
        }
        Conflict::Surround { validator, surrounding, surrounded, .. } => {
            format!("surround {validator} {} {}", surrounding.data_root, surrounded.data_root)
        }
        Conflict::DoubleProposal { validator, .. } => format!("proposal {validator}"),
    }
}

/// Feeds the batches from `from` on. Conflicts are reported before the commit, just as evidence is
/// stored before the index.
fn feed(dir: &Path, from: u64, mut report: impl FnMut(String)) {
    let mut index = Index::open(dir, shape()).unwrap();
    for n in from..N_BATCHES {
        for conflict in index.stage_votes(&batch(n)).unwrap() {
            report(format!("found {}", name(&conflict)));
        }
        if let Err(error) = index.commit() {
            report(format!("refused {error}"));
            return;
        }
        report(format!("acknowledged {n}"));
        // Without the flush the log would exceed the limit of the full-disk test.
        if n % 20 == 19 && std::env::var_os(UNFLUSHED).is_none() {
            index.flush().unwrap();
        }
    }
}

#[test]
fn a_full_disk_is_told_and_what_was_committed_is_intact() {
    let expected = uninterrupted(tempfile::tempdir().unwrap().path());
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life { found: BTreeSet::new(), next: 0, refused: None, limit: Limit::Fails(144) };
    // No file may be larger than this many blocks. Writing more fails as on a full disk, and the
    // process continues.
    life.live(dir.path(), "", None);
    let refused = life.refused.take().expect("the log did not fit");
    assert!(refused.contains("free disk space") && refused.contains(&dir.path().display().to_string()), "{refused}");
    assert!(life.next > 3 && life.next < N_BATCHES, "after {} batches", life.next);
    life.limit = Limit::None;
    life.live(dir.path(), "", None);
    assert_eq!(life.next, N_BATCHES);
    assert_eq!(life.found, expected);
}

fn uninterrupted(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    feed(dir, 0, |line| {
        found.extend(line.strip_prefix("found ").map(str::to_owned));
    });
    assert!(found.len() > 30, "the load has offences: {}", found.len());
    found
}

#[test]
fn child_of_the_kill_test() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let from = std::env::var(FROM).unwrap().parse().unwrap();
    let mut out = std::io::stdout();
    feed(Path::new(&dir), from, |line| {
        writeln!(out, "{line}").unwrap();
        out.flush().unwrap();
    });
}

struct Life {
    found: BTreeSet<String>,
    next: u64,
    /// The error message of the commit that failed.
    refused: Option<String>,
    limit: Limit,
}

/// The largest size of a file, in blocks of the shell's `ulimit -f`.
#[derive(Clone, Copy)]
enum Limit {
    None,
    /// Writing more fails, as on a full disk.
    Fails(u64),
    /// Writing more writes as much as fits and then kills the process.
    Kills(u64),
}

impl Life {
    /// Runs the child until it ends, or until it is killed after `kill_after` lines.
    fn live(&mut self, dir: &Path, abort: &str, kill_after: Option<u64>) -> ExitStatus {
        let (on_limit, limit) = match self.limit {
            Limit::None => ("trap - XFSZ", "unlimited".to_owned()),
            Limit::Fails(blocks) => ("trap '' XFSZ", blocks.to_string()),
            Limit::Kills(blocks) => ("trap - XFSZ; ulimit -c 0", blocks.to_string()),
        };
        let mut child = Command::new("sh")
            .args(["-c", &format!("{on_limit}; ulimit -f \"$1\"; shift; exec \"$@\""), "sh", &limit])
            .arg(std::env::current_exe().unwrap())
            .args(["index::crash_tests::child_of_the_kill_test", "--exact", "--nocapture", "--test-threads=1"])
            .env(DIR, dir)
            .env(FROM, self.next.to_string())
            .env(ABORT, abort)
            .envs(matches!(self.limit, Limit::Fails(_)).then_some((UNFLUSHED, "1")))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut n_lines = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // The test harness writes its own lines, without a newline before ours.
            if let Some((_, found)) = line.split_once("found ") {
                self.found.insert(found.to_owned());
            } else if let Some((_, n)) = line.split_once("acknowledged ") {
                self.next = n.parse::<u64>().unwrap() + 1;
            }
            if let Some((_, message)) = line.split_once("refused ") {
                self.refused = Some(message.to_owned());
            }
            n_lines += 1;
            if kill_after == Some(n_lines) {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap()
    }
}

#[test]
fn killed_anywhere_and_fed_the_tail_again_it_names_the_same() {
    let whole = tempfile::tempdir().unwrap();
    let expected = uninterrupted(whole.path());
    let wanted = std::env::var(KILLS).map_or(DEFAULT_KILLS, |text| text.parse().expect("a number of kills"));
    let (mut kills, mut round) = (0, 0);
    let mut by_limit = 0;
    while kills < wanted {
        let dir = tempfile::tempdir().unwrap();
        let mut life = Life { found: BTreeSet::new(), next: 0, refused: None, limit: Limit::None };
        while life.next < N_BATCHES && kills < wanted {
            let (mut abort, mut kill_after) = (String::new(), None);
            life.limit = Limit::None;
            match kills % 3 {
                0 => {
                    abort = match kills / 3 % 3 {
                        0 => format!("before the write:{}", 1 + (kills + round) % 9),
                        1 => format!("after the write:{}", 1 + (kills + round) % 9),
                        _ => "in opening:0".to_owned(),
                    };
                }
                1 => kill_after = Some(1 + (kills * 13 + round * 5) % 23),
                // One life writes half a megabyte in total, to files of at most a few hundred
                // blocks.
                _ => life.limit = Limit::Kills(1 + (kills * 37 + round * 11) % 240),
            }
            let status = life.live(dir.path(), &abort, kill_after);
            by_limit += u64::from(status.signal() == Some(SIGXFSZ));
            kills += 1;
        }
        life.limit = Limit::None;
        life.live(dir.path(), "", None);
        assert_eq!(life.found, expected, "round {round}: lost or invented");
        let index = Index::open(dir.path(), shape()).unwrap();
        let unbroken = Index::open(whole.path(), shape()).unwrap();
        for validator in (0..96).map(ValidatorIndex::new) {
            let roots = |index: &Index| {
                let votes = index.votes_of(validator).unwrap().votes;
                votes.iter().map(|vote| (vote.data.target.epoch, vote.data_root)).collect::<BTreeSet<_>>()
            };
            assert_eq!(roots(&index), roots(&unbroken), "votes of {validator}");
        }
        round += 1;
    }
    assert!(by_limit >= wanted / 6, "{by_limit} of {kills} lives ended inside a write");
}

fn copied(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// A copy of a closed index, with one byte changed in its largest file with this suffix.
fn damaged(from: &Path, suffix: &str, at: impl Fn(usize) -> usize) -> tempfile::TempDir {
    let dir = copied(from);
    let files = std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.to_string_lossy().ends_with(suffix));
    let file = files.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0x10;
    std::fs::write(&file, bytes).unwrap();
    dir
}

/// All votes that can be read from the index, or the error message with which it refuses.
fn read_all(dir: &Path) -> Result<Vec<BTreeSet<Root>>, String> {
    let index = Index::open(dir, shape()).map_err(|error| error.to_string())?;
    let votes = |validator| {
        let known = index.votes_of(ValidatorIndex::new(validator)).map_err(|error| error.to_string())?;
        Ok(known.votes.iter().map(|vote| vote.data_root).collect())
    };
    (0..96).map(votes).collect()
}

#[test]
fn a_flipped_byte_is_told_and_never_believed() {
    let whole = tempfile::tempdir().unwrap();
    // At the end, the last ten batches are in the log and the rest is in tables.
    feed(whole.path(), 0, |_| ());
    let mut index = Index::open(whole.path(), shape()).unwrap();
    index.flush().unwrap();
    for n in 0..10 {
        let mut again = batch(n);
        again.push(single(40 + n, 39, 1, 3, n as u32, None));
        index.stage_votes(&again).unwrap();
        index.commit().unwrap();
    }
    drop(index);
    // A copy is read, because opening moves the log into tables.
    let expected = read_all(copied(whole.path()).path()).unwrap();
    let mut refused = [0, 0];
    for (kind, suffix) in [".sst", ".log"].iter().enumerate() {
        for step in 0..12 {
            let dir = damaged(whole.path(), suffix, |len| len * step / 12 + step % 7);
            match read_all(dir.path()) {
                Ok(told) => assert_eq!(told, expected, "{suffix} at {step}/12: something was lost in silence"),
                Err(message) => {
                    assert!(message.contains("damaged") && message.contains("move the directory away"), "{message}");
                    assert!(message.contains(&dir.path().display().to_string()), "{message}");
                    refused[kind] += 1;
                }
            }
        }
    }
    assert!(refused[0] >= 6 && refused[1] >= 6, "most flips are in what is read: {refused:?}");
}
