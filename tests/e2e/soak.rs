//! All at once and for long: devices that are unplugged, reset, restarted and that panic, clients that storm in and out,
//! reloads good and bad. It goes in rounds; after each all comes to rest and every figure must add up to the frame. At the
//! end the process must hold what it held after the first rounds.
//!
//! `GATEPOST_SOAK` says how long (`30m`; 3 minutes without it), `GATEPOST_SOAK_SEED` repeats the choices of a run (not the
//! times at which they fall). The binary needs the feature `testing`, so that a device can panic.

mod cast;
mod check;
mod clients;
mod far_end;
mod hall;
mod plug;
mod reloads;
mod stage;

use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::task::spawn_blocking;

use crate::common::{Holdings, wait_until};
use cast::Cast;

/// How long a round takes, without its end.
const ROUND: Duration = Duration::from_secs(15);

/// After so many rounds the process has what it needs: caches are full, the allocator has its pages.
const WARM: u32 = 3;

/// Heap that may come after that. In 30 minutes 800000 connections come and go and eleven million messages pass: a leak of
/// twenty bytes a connection is more.
const SLACK_KIB: u64 = 12 * 1024;

fn setting<T>(name: &str, parse: impl FnOnce(&str) -> T, default: impl FnOnce() -> T) -> T {
    std::env::var(name).map_or_else(|_| default(), |text| parse(&text))
}

/// Checks all figures and says them. `unseen` is for [`Cast::check_broker`]; returns it for the next time.
async fn check(cast: Cast, unseen: Option<u64>) -> (Cast, u64) {
    let checked = spawn_blocking(move || {
        let unseen = unseen.unwrap_or_else(|| cast.settled_unseen());
        cast.check_devices();
        cast.check_broker(unseen);
        println!("{}", cast.report());
        (cast, unseen)
    });
    checked.await.unwrap()
}

/// Descriptors and threads are no more than `before`; those that read a configuration stay for ten seconds.
fn wait_for_holdings(cast: &Cast, before: Holdings) -> Holdings {
    wait_until(&format!("no more than {before:?}"), || {
        let now = cast.holdings();
        now.descriptors <= before.descriptors && now.threads <= before.threads
    });
    cast.holdings()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn everything_at_once_and_the_figures_add_up_to_the_frame() {
    let duration =
        setting("GATEPOST_SOAK", |text| humantime::parse_duration(text).unwrap(), || Duration::from_secs(180));
    let seed = setting("GATEPOST_SOAK_SEED", |text| text.parse().unwrap(), || fastrand::u64(0..1_000_000));
    println!("GATEPOST_SOAK_SEED={seed}");
    let (start, mut rng) = (Instant::now(), Rng::with_seed(seed));
    let mut cast = Cast::gather(&mut rng).await;
    let at_first = cast.holdings();
    let (mut unseen, mut warm) = (None, None);
    while start.elapsed() + ROUND < duration || warm.is_none() {
        cast = cast.round(&mut rng, ROUND).await.settle().await;
        let (checked, count) = check(cast, unseen).await;
        (cast, unseen) = (checked, Some(count));
        if cast.totals.rounds == WARM {
            // The commander and the authors have come since.
            let clients = 1 + cast::AUTHORS;
            let before = Holdings { descriptors: at_first.descriptors + clients, ..at_first };
            warm = Some(wait_for_holdings(&cast, before));
        }
    }
    let warm = warm.unwrap();
    let now = wait_for_holdings(&cast, warm);
    println!("at first {at_first:?}\nwarm {warm:?}\nat the end {now:?}");
    assert!(now.anonymous_kib < warm.anonymous_kib + SLACK_KIB, "{now:?} after {warm:?}");
    let log = spawn_blocking(move || cast.gateway.terminate()).await.unwrap();
    check::check_log(&log);
}
