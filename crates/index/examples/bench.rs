//! Runs the benchmark of `slashwatch bench index` by itself:
//!
//!     cargo run --release -p index --features bench --example bench -- epochs=40
//!
//! `open=DIR` only opens the index in DIR, which an earlier run left or was killed in, and prints
//! wall and CPU seconds.

use index::bench::{Options, Variant, compare, reopen, run};

fn main() {
    let mut options = Options::default();
    let mut variants = Vec::new();
    for argument in std::env::args().skip(1) {
        let (name, value) = argument.split_once('=').expect("arguments are name=value");
        match name {
            "validators" => options.validators = value.parse().expect("a number"),
            "epochs" => options.epochs = value.parse().expect("a number"),
            "batches" => options.batches_per_slot = value.parse().expect("a number"),
            "participation" => options.participation = value.parse().expect("percent"),
            "minority" => options.minority = value.parse().expect("percent"),
            "shape" => options.shape = value.parse().expect("a shape"),
            "distance" => options.source_distance = value.parse().expect("a number"),
            "absent" => options.absent_epochs = value.parse().expect("a number"),
            "bulk" => options.bulk = value.parse().expect("true or false"),
            "compare_distance" => variants.push(Variant::SourceDistance(value.parse().expect("a number"))),
            "compare_absent" => variants.push(Variant::AbsentEpochs(value.parse().expect("a number"))),
            "open" => return println!("{:?}", reopen(value.as_ref())),
            "dir" => options.data_dir = Some(value.into()),
            _ => panic!("unknown argument {name}"),
        }
    }
    if !variants.is_empty() {
        return println!("{:#?}", compare(&options, &variants));
    }
    match run(&options, &mut |_| ()) {
        Ok(report) => println!("{report:#?}"),
        Err(error) => eprintln!("{error}"),
    }
}
