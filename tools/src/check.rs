//! `pinstone check`: what is wrong with the store?
//!
//! A store that does not even open has one finding: what opening ran into.

use std::sync::Arc;

use pinstone::{CheckOptions, CheckReport, Error, Finding};
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::context::{Absent, Context, byte_bar};
use crate::exit::{CliError, Exit};
use crate::watch::{Notice, NoticeKind};

#[derive(Serialize)]
struct Document<'a> {
    ok: bool,
    #[serde(flatten)]
    report: &'a CheckReport,
}

pub(crate) fn run(context: &mut Context, args: &CheckArgs) -> Result<Exit, CliError> {
    let store = match context.open(Absent::Refuse) {
        Ok(store) => store,
        Err(CliError::Store(Error::Corrupt { file, offset_bytes, what })) => {
            let mut report = CheckReport::default();
            report.findings.push(Finding { file, offset_bytes: Some(offset_bytes), what });
            let exit = print(context, &report)?;
            let message = "the store does not open: nothing else was checked";
            context.notice(&Notice { kind: NoticeKind::Unchecked, path: None, message });
            return Ok(exit);
        }
        Err(error) => return Err(error),
    };
    let bar = byte_bar();
    let progress = {
        let bar = bar.clone();
        move |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        }
    };
    let options = CheckOptions { read_data: args.read_data, progress: Some(Arc::new(progress)) };
    let report = store.check(&options);
    bar.finish_and_clear();
    let exit = print(context, &report?)?;
    context.release(store);
    Ok(exit)
}

fn print(context: &mut Context, report: &CheckReport) -> Result<Exit, CliError> {
    let ok = report.findings.is_empty();
    let outcome = context.decide(if ok { Exit::Ok } else { Exit::Failure });
    if context.json() {
        context.document(&Document { ok, report })?;
    } else {
        for finding in &report.findings {
            context.line(finding)?;
        }
        if ok {
            context.line("ok")?;
        }
    }
    context.flush()?;
    Ok(outcome)
}
