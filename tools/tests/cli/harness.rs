//! Places to run `pinstone` in, and what came of it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use pinstone::Digest;
use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub(crate) fn pinstone() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pinstone"))
}

/// A directory of its own, with the default store in it.
pub(crate) struct Place(TempDir);

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            // A shell's way of telling of a signal.
            code: output.status.code().unwrap_or(128),
            out: output.stdout,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What it printed, of a run that went well and complained of nothing.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        self.text()
    }

    /// What it complained of, of a run that failed with `code` and printed nothing.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.text().as_str()), (code, ""), "{self:?}");
        assert!(!self.err.is_empty(), "{self:?}");
        self.err
    }

    /// What it printed.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The default store's directory.
    pub(crate) fn store(&self) -> PathBuf {
        self.path().join("pinstone-data")
    }

    /// Makes a file.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// `program`, in this place, under no influence of the tests' environment.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.path())
            .env_remove("PINSTONE_STORE")
            .env_remove("PINSTONE_LOG")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        Ran::of(self.command(pinstone()).args(args).output().unwrap())
    }

    /// Runs with words that are split at spaces.
    pub(crate) fn words(&self, words: &str) -> Ran {
        self.run(&words.split(' ').collect::<Vec<_>>())
    }

    pub(crate) fn run_with_stdin<S: AsRef<OsStr>>(&self, args: &[S], stdin: &[u8]) -> Ran {
        let mut command = self.command(pinstone());
        command.args(args);
        feed(command, stdin)
    }

    /// Runs a shell script in which `$PINSTONE` is the program.
    pub(crate) fn shell(&self, script: &str) -> Ran {
        let mut command = self.command("sh");
        command.args(["-c", script]).env("PINSTONE", pinstone());
        Ran::of(command.output().unwrap())
    }

    /// Stores a value and points a name at it.
    #[track_caller]
    pub(crate) fn store_value(&self, name: &str, value: &[u8]) -> Digest {
        let digest = Digest::of(value);
        let line = self.run_with_stdin(&["put"], value).ok();
        assert_eq!(line, format!("{digest}\t-\n"));
        self.words(&format!("pointer set {name} {digest}")).ok();
        digest
    }

    /// The value that a name leads to is there.
    #[track_caller]
    pub(crate) fn expect_value(&self, name: &str, value: &[u8]) {
        let ran = self.words(&format!("get @{name}"));
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{name}");
        assert!(ran.out == value, "{name} has other bytes");
    }

    /// Starts `pinstone batch`.
    pub(crate) fn batch(&self) -> BatchProcess {
        let mut command = self.command(pinstone());
        command.arg("batch");
        BatchProcess::start(command)
    }
}

/// Runs to the end with something to read.
pub(crate) fn feed(mut command: Command, stdin: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A child that does not want it all closes its end.
        scope.spawn(move || drop(input.write_all(stdin)));
        Ran::of(child.wait_with_output().unwrap())
    })
}

/// A process that answers JSON lines.
pub(crate) struct BatchProcess {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl BatchProcess {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The line with which a line is answered.
    pub(crate) fn line(&mut self, line: &[u8]) -> String {
        let input = self.input.as_mut().unwrap();
        input.write_all(line).unwrap();
        input.write_all(b"\n").unwrap();
        let mut reply = String::new();
        self.output.read_line(&mut reply).unwrap();
        assert_eq!(reply.pop(), Some('\n'), "the reply to {}", line.escape_ascii());
        reply
    }

    /// What a request is answered with.
    pub(crate) fn ask(&mut self, line: &str) -> Value {
        serde_json::from_str(&self.line(line.as_bytes())).unwrap()
    }

    /// The same, which must be ok.
    #[track_caller]
    pub(crate) fn ask_ok(&mut self, line: &str) -> Value {
        let reply = self.ask(line);
        assert_eq!(reply["ok"], Value::Bool(true), "{line}: {reply}");
        reply
    }

    /// The error with which a request is refused.
    #[track_caller]
    pub(crate) fn ask_bad(&mut self, line: &str, kind: &str) -> Value {
        let mut reply = self.ask(line);
        assert_eq!(reply["ok"], Value::Bool(false), "{line}: {reply}");
        assert_eq!(reply["error"]["kind"], kind, "{line}: {reply}");
        assert!(!reply["error"]["message"].as_str().unwrap().is_empty(), "{line}: {reply}");
        reply["error"].take()
    }

    /// Kills it, as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends its input; what it printed after its last reply must be nothing.
    pub(crate) fn end(mut self) -> Ran {
        self.input = None;
        let mut out = Vec::new();
        self.output.read_to_end(&mut out).unwrap();
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let status = self.child.wait().unwrap();
        assert!(out.is_empty(), "{}", out.escape_ascii());
        Ran { code: status.code().unwrap_or(128), out, err }
    }
}

/// Files of a directory: names and bytes.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// The files of a directory, sorted by name.
pub(crate) fn files(dir: &Path) -> Files {
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    let mut files: Files = std::fs::read_dir(dir).unwrap().map(file).collect();
    files.sort();
    files
}

/// The same without the lock file, which tells whoever opened the store last.
pub(crate) fn logs(dir: &Path) -> Files {
    files(dir).into_iter().filter(|(name, _)| name != "LOCK").collect()
}

/// Makes a directory of such files.
pub(crate) fn make(dir: &Path, files: &[(String, Vec<u8>)]) {
    std::fs::create_dir(dir).unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Bytes that do not compress and differ by their seed.
pub(crate) fn noise(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len_bytes.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(len_bytes);
    bytes
}
