//! A tour in one screen: put values, name them, move a name if nobody else did, look back.
//!
//! `cargo run -p pinstone --example quickstart -- DIR`

use std::path::Path;
use std::process::ExitCode;

use pinstone::{Batch, Error, Result, Store};

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: quickstart DIR");
        return ExitCode::from(2);
    };
    match tour(path.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tour(path: &Path) -> Result<()> {
    let store = Store::open(path)?;

    // A value is named by its content; putting it again stores nothing.
    let report = store.put(b"all 412 tests passed")?;
    println!("{} is {}", report.digest, if report.new { "new" } else { "known" });

    // A commit is durable when it returns, with every value that it names.
    let before = store.pointer("latest")?;
    let run = format!("runs/{}", store.stats().last_commit + 1);
    let batch = Batch::new().set(run, report.digest).set("latest", report.digest);
    println!("commit {}", store.commit(batch.require("latest", before))?);

    // Somebody who believes in another pointer is refused, and told what it is.
    let other = store.put(b"2 tests failed")?.digest;
    match store.commit(Batch::new().set("latest", other).require("latest", Some(other))) {
        Err(Error::PreconditionFailed { current: Some(current), .. }) => {
            println!("refused: latest is {current}");
        }
        outcome => println!("not refused: {outcome:?}"),
    }

    // A snapshot stands still while others write.
    for pointer in store.snapshot().pointers_with_prefix("runs/") {
        let (name, digest) = pointer?;
        let value = store.get(&digest)?.map_or(0, |value| value.len());
        println!("{}: {value} bytes", name.escape_ascii());
    }
    store.close()
}
