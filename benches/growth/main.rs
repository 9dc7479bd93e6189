//! The growth check: whether what is done for one client or device costs more, the more others are there.
//!
//! `cargo test --features testing --bench growth [SCENE...]` plays each scene with 10 others and with 1,000, under
//! callgrind, and fails if an operation takes more than [`BOUND`] times the instructions. Instructions are counted, not
//! time: a busy machine changes nothing, and an unoptimized build will do. Where they go is shown by
//! `callgrind_annotate`, which the last lines name.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use callgrind::{Cost, Trial};

mod callgrind;
#[allow(dead_code)] // The tests use the rest.
#[path = "../../tests/broker/client.rs"]
mod client;
mod clients;
mod devices;
mod retained;
mod scenes;

/// How many others there are: a few, and many.
const OTHERS: [usize; 2] = [10, 1_000];

/// How many times the instructions of an operation among few it may take among many. Trees, maps and the way through
/// more memory make it up to 1.07. What the test's own client does is counted as well, so that 1.15 is some 20 to 40
/// instructions for each of the others: an unoptimized walk through all of them takes more.
const BOUND: f64 = 1.15;

fn main() -> ExitCode {
    // In the process that callgrind runs.
    if let Some((scene, others)) = callgrind::trial() {
        scenes::play(&scene, others);
        return ExitCode::SUCCESS;
    }
    // Cargo adds `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |scene: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == scene);
    let scenes: Vec<&str> = scenes::names().filter(|scene| is_wanted(scene)).collect();
    if scenes.is_empty() {
        eprintln!("growth: no such scene; there are {}", scenes::names().collect::<Vec<_>>().join(", "));
        return ExitCode::FAILURE;
    }
    match measure(&scenes) {
        Ok(costs) => report(&costs),
        Err(error) => {
            eprintln!("growth: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the operations of each scene cost, among few and among many. As many trials at once as there are processors.
fn measure(scenes: &[&str]) -> Result<Vec<[Cost; 2]>, String> {
    let [few, many] = OTHERS.map(|others| scenes.iter().map(move |&scene| Trial { scene, others }));
    // The long ones first.
    let trials: Vec<Trial> = many.chain(few).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(trial) = trials.get(next.fetch_add(1, SeqCst)) {
            done.push((*trial, trial.run()?));
        }
        Ok::<_, String>(done)
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let done = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).collect::<Result<Vec<_>, _>>()
    })?;
    let costs = |trial: Trial| done.iter().flatten().find(|(other, _)| *other == trial).map(|(_, costs)| costs.clone());
    let pairs = |&scene: &&str| {
        let [few, many] = OTHERS.map(|others| costs(Trial { scene, others }).unwrap_or_default());
        few.into_iter().zip(many).map(|(few, many)| [few, many])
    };
    Ok(scenes.iter().flat_map(pairs).collect())
}

/// Prints the table; a failure if anything grows.
fn report(costs: &[[Cost; 2]]) -> ExitCode {
    let [few, many] = OTHERS.map(|others| format!("{others} others"));
    println!("instructions of one operation among");
    println!("{:<36} {few:>12} {many:>12} {:>6} {:>6}", "", "ratio", "bound");
    let mut code = ExitCode::SUCCESS;
    for [few, many] in costs {
        let ratio = many.instructions as f64 / few.instructions as f64;
        let grows = ratio > BOUND;
        let verdict = if grows { "  GROWS" } else { "" };
        let (few, many_instructions) = (few.instructions, many.instructions);
        println!("{:<36} {few:>12} {many_instructions:>12} {ratio:>6.2} {BOUND:>6.2}{verdict}", many.operation);
        if grows {
            println!("  hint: callgrind_annotate {} shows what takes them", many.profile);
            code = ExitCode::FAILURE;
        }
    }
    code
}
