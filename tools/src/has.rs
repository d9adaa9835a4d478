//! `pinstone has`: are these values held?

use serde::Serialize;

use crate::cli::HasArgs;
use crate::context::{Absent, Context};
use crate::exit::{CliError, Exit};
use crate::text::DigestText;

#[derive(Serialize)]
struct Document<'a> {
    values: Vec<Value<'a>>,
}

#[derive(Serialize)]
struct Value<'a> {
    digest: DigestText<'a>,
    present: bool,
}

pub(crate) fn run(context: &mut Context, args: &HasArgs) -> Result<Exit, CliError> {
    let store = context.open(Absent::Refuse)?;
    let (mut values, mut failed) = (Vec::with_capacity(args.digests.len()), None);
    for digest in &args.digests {
        match store.contains(digest) {
            Ok(present) => values.push(Value { digest: DigestText(digest), present }),
            // The others are told all the same.
            Err(error) => {
                let error = CliError::from(error);
                context.complain(&error);
                failed = Some(error.exit());
            }
        }
    }
    let all = values.iter().all(|value| value.present);
    let found = if all { Exit::Ok } else { Exit::NotFound };
    let outcome = context.decide(failed.unwrap_or(found));
    if context.json() {
        context.document(&Document { values })?;
    } else {
        for Value { digest: DigestText(digest), present } in values {
            context.line(format_args!("{digest} {}", if present { "yes" } else { "no" }))?;
        }
    }
    context.flush()?;
    context.release(store);
    Ok(outcome)
}
