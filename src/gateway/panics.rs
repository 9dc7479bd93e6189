//! Where panics happen: said in the log, and kept for the owner of the task that panicked.

use std::collections::VecDeque;
use std::panic::PanicHookInfo;

use parking_lot::Mutex;
use tokio::task;
use tracing::subscriber::NoSubscriber;

/// Places that are kept for owners that have not asked yet.
const KEPT: usize = 64;

static PLACES: Mutex<VecDeque<(task::Id, String)>> = Mutex::new(VecDeque::new());

/// Logs panics of the whole process from now on, each with its place, instead of printing them; where there is no log,
/// they are printed as before.
pub fn install() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        note(panic);
        if tracing::dispatcher::get_default(|log| log.is::<NoSubscriber>()) {
            before(panic);
        }
    }));
}

/// Where the task has panicked, if that was noted. Once.
pub fn take(task: task::Id) -> Option<String> {
    let mut places = PLACES.lock();
    let at = places.iter().position(|(id, _)| *id == task)?;
    places.remove(at).map(|(_, place)| place)
}

fn note(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    if let Some(task) = task::try_id() {
        let mut places = PLACES.lock();
        if places.len() >= KEPT {
            places.pop_front();
        }
        places.push_back((task, place.clone()));
    }
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    tracing::error!(place, thread, "panic: {}", text.unwrap_or("no text"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_place_belongs_to_the_task() {
        install();
        let line = line!() + 1;
        let failed = tokio::spawn(async { panic!("on purpose") }).await.unwrap_err();
        let place = take(failed.id()).unwrap();
        assert!(place.contains(&format!("panics.rs:{line}:")), "{place}");
        assert_eq!(take(failed.id()), None);
    }
}
