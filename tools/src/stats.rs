//! `pinstone stats`: figures of the store.

use serde_json::Value;

use crate::context::{Absent, Context};
use crate::exit::{CliError, Exit};

pub(crate) fn run(context: &mut Context) -> Result<Exit, CliError> {
    let store = context.open(Absent::Refuse)?;
    let stats = store.stats();
    if context.json() {
        context.document(&stats)?;
    } else {
        let stats = serde_json::to_value(&stats).map_err(|error| CliError::Other(error.into()))?;
        let mut figures = Vec::new();
        flatten(&stats, "", &mut figures);
        let width = figures.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in figures {
            context.line(format_args!("{name:width$} {value}"))?;
        }
    }
    context.flush()?;
    context.release(store);
    Ok(Exit::Ok)
}

/// The figures in a document, each with a dotted name.
fn flatten(value: &Value, name: &str, figures: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let dot = if name.is_empty() { "" } else { "." };
                flatten(value, &format!("{name}{dot}{field}"), figures);
            }
        }
        Value::Null => figures.push((name.to_owned(), "-".to_owned())),
        Value::String(text) => figures.push((name.to_owned(), text.clone())),
        value => figures.push((name.to_owned(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_a_line_of_its_own() {
        let stats = serde_json::to_value(pinstone::Stats::default()).unwrap();
        let mut figures = Vec::new();
        flatten(&stats, "", &mut figures);
        let find = |name: &str| figures.iter().find(|(found, _)| found == name).unwrap().1.clone();
        assert_eq!(find("last_commit"), "0");
        assert_eq!(find("blob_log.segment_count"), "0");
        assert_eq!(find("recovery.clean"), "false");
        assert_eq!(find("poisoned"), "-");
    }
}
