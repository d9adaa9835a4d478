//! `pinstone batch`: JSON lines drive the store.

use crate::context::Context;
use crate::exit::{CliError, Exit};

pub(crate) fn run(_context: &mut Context) -> Result<Exit, CliError> {
    Err(CliError::Usage("batch".to_owned()))
}
