//! Between who logs and what takes the lines. A terminal that is held, a pipe that nobody reads and a journal on a disk
//! that hangs must hold up nothing: lines wait for a thread, in a bounded queue. Those that find it full are lost, counted,
//! and told of when there is room again.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, Sender};
use tracing_subscriber::fmt::MakeWriter;

/// Most lines that wait.
const MAX_WAITING: usize = 1024;

/// How long the end of the process waits for lines to be taken.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Takes lines from any thread; waits for nothing.
pub(super) struct Queue {
    items: Sender<Item>,
    lost: Arc<AtomicU64>,
}

enum Item {
    Line(Vec<u8>),
    End,
}

/// While there is one, what is logged is written. Dropped, it waits until all of it is, but no longer than a second.
#[must_use = "dropped, it ends the log"]
pub struct Guard {
    items: Sender<Item>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

impl Queue {
    /// Lines go to `sink`, one at a time.
    pub(super) fn new(sink: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static) -> io::Result<(Queue, Guard)> {
        let (items, waiting) = flume::bounded(MAX_WAITING);
        let (end, ended) = flume::bounded(0);
        let lost = Arc::<AtomicU64>::default();
        let queue = Queue { items: items.clone(), lost: lost.clone() };
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            write(&waiting, &lost, sink);
            drop(end);
        })?;
        Ok((queue, Guard { items, ended }))
    }

    pub(super) fn push(&self, line: Vec<u8>) {
        if self.items.try_send(Item::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(waiting: &Receiver<Item>, lost: &AtomicU64, mut sink: impl FnMut(&[u8]) -> io::Result<()>) {
    let mut told = 0;
    while let Ok(Item::Line(line)) = waiting.recv() {
        if sink(&line).is_err() {
            lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let lines = lost.load(Ordering::Relaxed);
        if lines > told {
            told = lines;
            // It goes the way of any line; if it is lost itself, there is one more to tell of.
            tracing::warn!(lines, "lines of the log were lost since the start: what takes them is too slow");
        }
    }
}

/// A whole line at a time, as the layers of tracing-subscriber write.
impl io::Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Queue;

    fn make_writer(&'a self) -> &'a Queue {
        self
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_WORDS;
        if self.items.send_deadline(Item::End, deadline).is_ok() {
            let _ = self.ended.recv_deadline(deadline);
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn every_line_is_written_in_order_before_the_end() {
        let (written, lines) = flume::unbounded();
        let (queue, guard) = Queue::new(move |line| written.send(line.to_vec()).map_err(io::Error::other)).unwrap();
        for n in 0..500_u32 {
            queue.push(n.to_string().into_bytes());
        }
        drop(guard);
        let lines: Vec<_> =
            lines.drain().map(|line| String::from_utf8(line).unwrap().parse::<u32>().unwrap()).collect();
        assert_eq!(lines, (0..500).collect::<Vec<_>>());
    }

    /// The sink stands still until it is told to go on.
    #[test]
    fn who_logs_waits_for_nothing_and_each_lost_line_is_counted() {
        let (go, gate) = flume::bounded::<()>(0);
        let (written, lines) = flume::unbounded();
        let sink = move |line: &[u8]| {
            let _ = gate.recv();
            written.send(String::from_utf8(line.to_vec()).unwrap()).map_err(io::Error::other)
        };
        let (queue, guard) = Queue::new(sink).unwrap();
        let queue = Arc::new(queue);
        let all = 3 * MAX_WAITING;
        for n in 0..all {
            queue.push(format!("{n}\n").into_bytes());
        }
        // The thread has taken one at most.
        let lost = queue.lost.load(Ordering::Relaxed);
        assert!((all - MAX_WAITING - 1..=all - MAX_WAITING).contains(&(lost as usize)), "{lost}");
        drop(go);
        let first = lines.iter().take(all - lost as usize).collect::<Vec<_>>();
        assert_eq!(first.len() as u64 + lost, all as u64);
        drop(guard);
    }

    #[test]
    fn a_sink_that_fails_loses_lines_and_that_is_counted() {
        let (written, lines) = flume::unbounded();
        let mut failures = 3;
        let sink = move |line: &[u8]| match failures {
            0 => written.send(String::from_utf8(line.to_vec()).unwrap()).map_err(io::Error::other),
            _ => {
                failures -= 1;
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        };
        let (queue, guard) = Queue::new(sink).unwrap();
        for _ in 0..4 {
            queue.push(b"line".to_vec());
        }
        drop(guard);
        assert_eq!((lines.len(), queue.lost.load(Ordering::Relaxed)), (1, 3));
    }

    #[test]
    fn a_layer_writes_one_line_an_event() {
        let (written, lines) = flume::unbounded();
        let (queue, guard) = Queue::new(move |line| written.send(line.to_vec()).map_err(io::Error::other)).unwrap();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(queue);
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            tracing::info!(n = 1, "a\nb");
            tracing::info!(n = 2, "c");
        });
        drop(guard);
        let lines: Vec<_> = lines.drain().map(|line| String::from_utf8(line).unwrap()).collect();
        assert!(lines.len() == 2 && lines[0].ends_with("n=1\n") && lines[1].ends_with("c n=2\n"), "{lines:?}");
    }
}
