//! Instructions of an operation, counted by valgrind's callgrind.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};

/// Tells the process under callgrind what to do: `SCENE OTHERS`.
const TRIAL: &str = "GATEPOST_GROWTH_TRIAL";
/// Until buffers and maps have the size they keep.
const WARM_UP: usize = 20;
/// How often an operation is done in the first count; twice as often in the second.
const ROUNDS: usize = 50;
/// Parts of a run that callgrind writes for each operation: what came before, the first count and the second.
const PARTS: usize = 3;

/// One scene among so many others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial<'a> {
    pub scene: &'a str,
    pub others: usize,
}

/// What an operation took.
#[derive(Clone, Debug)]
pub struct Cost {
    pub operation: String,
    pub instructions: u64,
    /// What callgrind has written.
    pub profile: String,
}

/// What this process is to do, if callgrind runs it.
pub fn trial() -> Option<(String, usize)> {
    let text = std::env::var(TRIAL).ok()?;
    let (scene, others) = text.split_once(' ')?;
    Some((scene.to_owned(), others.parse().ok()?))
}

impl Trial<'_> {
    /// Plays the scene in a process of its own; what its operations took.
    pub fn run(&self) -> Result<Vec<Cost>, String> {
        let Trial { scene, others } = self;
        let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let folder = program.parent().unwrap_or(Path::new(".")).with_file_name("growth");
        fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let file = folder.join(format!("{scene}-{others}")).display().to_string();
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet", "--dump-before=*callgrind_mark*"])
            .arg(format!("--callgrind-out-file={file}"))
            .arg(program)
            .env(TRIAL, format!("{scene} {others}"))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot start valgrind: {error}; hint: apt-get install valgrind"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{scene} among {others}: {}\n{said}", output.status));
        }
        let operations = String::from_utf8_lossy(&output.stdout);
        operations.lines().enumerate().map(|(number, operation)| cost(&file, number, operation)).collect()
    }
}

/// What the operation took that is the one of that number in the scene.
fn cost(file: &str, number: usize, operation: &str) -> Result<Cost, String> {
    let last = PARTS * (number + 1);
    let [once, twice] = [last - 1, last].map(|part| total(&format!("{file}.{part}")));
    let (once, twice) = (once?, twice?);
    let instructions = twice.saturating_sub(once) / ROUNDS as u64;
    Ok(Cost { operation: operation.to_owned(), instructions, profile: format!("{file}.{last}") })
}

/// The sum that callgrind has written at the end of a part of the run.
fn total(file: &str) -> Result<u64, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let total = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
    total.and_then(|total| total.trim().parse().ok()).ok_or_else(|| format!("{file} has no totals"))
}

/// Does an operation often enough to know what it takes: what does not belong to it, as the counting itself, is in both
/// counts and goes when one is taken from the other. It is told the number, below `others`, of whom it is for.
pub async fn count(name: &str, others: usize, mut operation: impl AsyncFnMut(usize)) {
    let mut number = 0;
    for rounds in [WARM_UP, ROUNDS, 2 * ROUNDS] {
        for _ in 0..rounds {
            // Here and there: the step is a prime that divides no number of others.
            number += 1;
            operation(number * 7919 % others).await;
        }
        callgrind_mark(rounds);
    }
    println!("{name}");
}

/// Where this is called callgrind writes what it has counted, and begins anew.
#[inline(never)]
fn callgrind_mark(rounds: usize) {
    black_box(rounds);
}
