//! All who take part, from round to round.

use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use fastrand::Rng;
use tempfile::TempDir;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use super::clients::{self, Author, Commander, Keeper, Storm};
use super::far_end::{Deeds, End, FarEnd};
use super::hall;
use super::plug::Plug;
use super::reloads::{self, Config, Reloads};
use super::stage::Stage;
use crate::common::{Gateway, Holdings, Port};

/// Clients that come and go all the time.
const STORM: usize = 200;
const KEEPERS: usize = 6;
pub const AUTHORS: usize = 2;
/// Connections to `hall` at the same time.
const PEERS: usize = 12;

/// Devices that get commands; of `hall`: all its peers, and one that is not there.
const TARGETS: [&str; 8] = ["calm", "plug", "torn", "mad", "ruled", "moved", "hall/all", "hall/nobody"];

/// Everybody, at rest.
pub struct Cast {
    pub gateway: Gateway,
    config: Arc<Config>,
    pub stage: Stage,
    hall_port: u16,
    pub far_ends: Vec<FarEnd>,
    pub plug: Plug,
    pub commander: Commander,
    authors: Vec<Author>,
    pub keepers: Vec<Keeper>,
    pub totals: Totals,
}

/// What was done in all rounds.
#[derive(Debug, Default)]
pub struct Totals {
    pub rounds: u32,
    pub reloads: Reloads,
    pub storm: Storm,
    pub hall: Deeds,
}

async fn all<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

impl Cast {
    /// Starts the gateway; all its devices are there.
    pub async fn gather(rng: &mut Rng) -> Cast {
        let far_ends = vec![
            FarEnd::new("calm", &[]).await,
            FarEnd::new("ruled", &[]).await,
            FarEnd::new("moved", &[]).await,
            FarEnd::new("torn", &[End::Reset, End::Close]).await,
            FarEnd::new("mad", &[End::Panic, End::Reset]).await,
        ];
        let ports = far_ends.iter().map(|far_end| (far_end.device, far_end.port())).collect();
        let dir = TempDir::new().unwrap();
        let port = Port::plugged(dir.path(), "ttyUSB0");
        let config = Arc::new(Config { plug: port.path().to_owned(), ports });
        let first = config.version(0);
        let gateway = spawn_blocking(move || Gateway::start_with(dir, &first)).await.unwrap();
        let stage = Stage::open(Arc::new(AtomicU16::new(gateway.port()))).await;
        for device in config.devices() {
            stage.until(device, |seen| seen.is_online(device)).await;
        }
        let mut keepers = Vec::new();
        for index in 0..KEEPERS {
            keepers.push(Keeper::new(&stage, rng.fork(), index).await);
        }
        Cast {
            hall_port: gateway.device_port("hall"),
            gateway,
            config,
            far_ends,
            plug: Plug::new(port),
            commander: Commander::new(&stage, rng.fork(), &TARGETS),
            authors: (0..AUTHORS).map(|index| Author::new(&stage, rng.fork(), index)).collect(),
            keepers,
            stage,
            totals: Totals::default(),
        }
    }

    /// Everybody does what they do for so long, and finishes it.
    pub async fn round(mut self, rng: &mut Rng, length: Duration) -> Cast {
        let stage = self.stage.clone();
        stage.set_open(true);
        let crowd = self.crowd(rng);
        let far_ends = spawn(self.far_ends, &stage, rng, FarEnd::round);
        let authors = spawn(self.authors, &stage, rng, Author::round);
        let keepers = spawn(self.keepers, &stage, rng, Keeper::round);
        let commander = tokio::spawn(self.commander.round(stage.clone(), rng.fork()));
        let (on_stage, fork) = (stage.clone(), rng.fork());
        let plug = spawn_blocking(move || self.plug.round(&on_stage, fork));
        let (on_stage, fork, config) = (stage.clone(), rng.fork(), self.config.clone());
        let reloads = spawn_blocking(move || reloads::round(self.gateway, &config, &on_stage, fork));

        sleep(length).await;
        stage.set_open(false);
        let done;
        (self.gateway, done) = reloads.await.unwrap();
        self.totals.reloads += done;
        self.totals.rounds += 1;
        let (hall, storm) = crowd;
        all(hall).await.into_iter().for_each(|deeds| self.totals.hall += deeds);
        all(storm).await.into_iter().for_each(|storm| self.totals.storm += storm);
        self.plug = plug.await.unwrap();
        self.commander = commander.await.unwrap();
        self.authors = all(authors).await;
        self.keepers = all(keepers).await;
        self.far_ends = all(far_ends).await;
        self
    }

    /// Those who are there for one round only.
    fn crowd(&self, rng: &mut Rng) -> (Vec<JoinHandle<Deeds>>, Vec<JoinHandle<Storm>>) {
        let (stage, round) = (&self.stage, self.totals.rounds);
        let hall =
            (0..PEERS).map(|n| hall::peer(stage.clone(), rng.fork(), self.hall_port, format!("hall-{round}-{n}")));
        let hall = hall.map(tokio::spawn).collect();
        let storm = (0..STORM).map(|n| clients::storm(stage.clone(), rng.fork(), format!("{round}-{n}")));
        (hall, storm.map(tokio::spawn).collect())
    }

    /// Waits until all that was sent has arrived.
    pub async fn settle(mut self) -> Cast {
        let stage = self.stage.clone();
        let far_ends = self.far_ends.into_iter().map(|far_end| tokio::spawn(far_end.settle(stage.clone())));
        self.far_ends = all(far_ends.collect()).await;
        let on_stage = stage.clone();
        self.plug = spawn_blocking(move || self.plug.settle(&on_stage)).await.unwrap();
        let topics: Vec<_> = self.authors.iter().flat_map(Author::topics).collect();
        let keepers = self.keepers.into_iter().map(|keeper| tokio::spawn(keeper.settle(topics.clone())));
        self.keepers = all(keepers.collect()).await;
        stage.forget_sources(|source| source.starts_with("soak/storm/") || source.starts_with("hall-"));
        self
    }

    /// What the gateway's process holds now.
    pub fn holdings(&self) -> Holdings {
        Holdings::of(self.gateway.id())
    }
}

fn spawn<A, F>(actors: Vec<A>, stage: &Stage, rng: &mut Rng, round: fn(A, Stage, Rng) -> F) -> Vec<JoinHandle<A>>
where
    F: Future<Output = A> + Send + 'static,
    A: Send + 'static,
{
    actors.into_iter().map(|actor| tokio::spawn(round(actor, stage.clone(), rng.fork()))).collect()
}
