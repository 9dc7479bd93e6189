//! A child process whose output is read line by line as it comes.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::DEADLINE;

/// Killed when dropped; its output is shown if the test fails.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    seen: usize,
}

#[derive(Default)]
struct Output {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    streams_open: usize,
}

impl Process {
    /// Starts it with all three streams piped.
    pub fn spawn(mut command: Command) -> Process {
        let name = command.get_program().to_string_lossy().into_owned();
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let output = Arc::new(Output::default());
        output.lines.lock().unwrap().streams_open = 2;
        let readers = vec![
            read_lines(child.stdout.take().unwrap(), output.clone()),
            read_lines(child.stderr.take().unwrap(), output.clone()),
        ];
        let stdin = child.stdin.take();
        Process { name, child, stdin, output, readers, seen: 0 }
    }

    /// The next line, after those already waited for, that contains `text`.
    pub fn expect(&mut self, text: &str) -> String {
        let (index, line) = self.search(self.seen, &[text]);
        self.seen = index + 1;
        line
    }

    /// The first line from the start on that contains `text`.
    pub fn find(&self, text: &str) -> String {
        self.find_all(&[text])
    }

    /// The first line from the start on that contains all of `texts`.
    pub fn find_all(&self, texts: &[&str]) -> String {
        self.search(0, texts).1
    }

    fn search(&self, from: usize, texts: &[&str]) -> (usize, String) {
        let start = Instant::now();
        let mut output = self.output.lines.lock().unwrap();
        let mut at = from;
        loop {
            if let Some(found) = output.lines[at..].iter().position(|line| texts.iter().all(|text| line.contains(text)))
            {
                return (at + found, output.lines[at + found].clone());
            }
            at = output.lines.len();
            let left = DEADLINE.saturating_sub(start.elapsed());
            let ended = output.streams_open == 0;
            if ended || left.is_zero() {
                drop(output);
                let why = if ended { "ended" } else { "went on" };
                panic!("{} {why} without a line with {texts:?}", self.name);
            }
            output = self.output.changed.wait_timeout(output, left).unwrap().0;
        }
    }

    /// Everything so far.
    pub fn lines(&self) -> Vec<String> {
        self.output.lines.lock().unwrap().lines.clone()
    }

    /// One line to its standard input. One that has ended already takes no more: what it said tells why.
    pub fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is closed");
        match stdin.write_all(format!("{line}\n").as_bytes()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            sent => sent.unwrap(),
        }
    }

    /// End of its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its exit status; fails the test if it takes longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                for reader in self.readers.drain(..) {
                    reader.join().unwrap();
                }
                return status;
            }
            assert!(start.elapsed() < limit, "{} still runs after {limit:?}", self.name);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end and returns the exit code with all lines.
    pub fn finish(mut self) -> (i32, Vec<String>) {
        self.close_stdin();
        let code = self.wait(DEADLINE).code().expect("ended by a signal");
        (code, self.lines())
    }

    /// Waits for a good end.
    pub fn succeed(self) -> Vec<String> {
        let name = self.name.clone();
        let (code, lines) = self.finish();
        assert_eq!(code, 0, "{name}: {lines:#?}");
        lines
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- output of {}:\n{}", self.name, self.lines().join("\n"));
        }
    }
}

fn read_lines(stream: impl Read + Send + 'static, output: Arc<Output>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            output.lines.lock().unwrap().lines.push(text);
            output.changed.notify_all();
            line.clear();
        }
        output.lines.lock().unwrap().streams_open -= 1;
        output.changed.notify_all();
    })
}
