//! The command `pinstone`; see `pinstone --help`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    pinstone_tools::cli::main()
}
