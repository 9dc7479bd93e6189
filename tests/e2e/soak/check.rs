//! After a round: what the gateway has counted, what was done, what was seen and what was heard must agree. All of it blocks.

use std::time::Duration;

use serde_json::Value;

use super::cast::Cast;
use super::far_end::{Deeds, FarEnd};
use crate::common::{Ledger, wait_until};

impl Cast {
    /// Frames and commands of the devices.
    pub fn check_devices(&self) {
        for far_end in &self.far_ends {
            self.check_far_end(far_end);
        }
        let plug = self.ledger("plug");
        assert_eq!(plug.count("commands"), self.commander.sent_to("plug"), "{plug:?}");
        assert_eq!(plug.count("reconnects"), self.plug.unplugs, "{plug:?}");
        assert!(self.plug.heard.commands <= may_be_heard(&plug), "{plug:?}");
        let hall = self.ledger("hall");
        assert!(hall.dropped("no_peer") >= self.commander.sent_to("hall/nobody"), "{hall:?}");
        check_ends("hall", &hall, &self.totals.hall);
    }

    /// The figures of a device: all of them add up, and all it published was seen, once and in order.
    fn ledger(&self, device: &str) -> Ledger {
        let ledger = self.gateway.ledger(device);
        assert_eq!(Some(&ledger.count("published")), self.stage.seen().of_devices.get(device), "{device}");
        ledger
    }

    fn check_far_end(&self, far_end: &FarEnd) {
        let (device, sent) = (far_end.device, self.commander.sent_to(far_end.device));
        let ledger = self.ledger(device);
        let heard = || far_end.heard.lock().unwrap().commands;
        assert!(heard() <= may_be_heard(&ledger), "{device} has heard more than was written: {ledger:?}");
        assert_eq!(ledger.count("commands"), sent, "{device}: {ledger:?}");
        if device == "moved" {
            // A reload restarts it: what it has read in part is dropped.
            return;
        }
        check_ends(device, &ledger, &far_end.deeds);
        if ["calm", "ruled"].contains(&device) {
            ledger.expect_nothing_dropped();
            assert_eq!(ledger.count("frames_in"), far_end.sent(), "{device}: {ledger:?}");
            wait_until("all commands to be heard", || heard() == sent);
        }
    }

    /// Messages of clients: received is published or dropped, published is seen; what the kept sessions miss was dropped
    /// because their queues were full. `unseen` were published before anybody looked.
    pub fn check_broker(&self, unseen: u64) {
        wait_until("all that was published to be seen", || self.unseen() == unseen);
        let broker = self.broker();
        let count = |name: &str| broker[name].as_u64().unwrap();
        let dropped = |reason: &str| broker["dropped"][reason].as_u64().unwrap_or_default();
        // Beside what nobody may publish: what was held back for want of room when its publisher reset the connection.
        assert!(dropped("refused") >= self.commander.refused, "{broker:#}");
        let received = broker["received"]["messages"].as_u64().unwrap();
        assert_eq!(received - dropped("refused"), self.stage.seen().of_clients, "{broker:#}");
        let missed: u64 = self.keepers.iter().map(|keeper| keeper.missed).sum();
        assert_eq!((dropped("queue_full"), dropped("lost")), (missed, 0), "{broker:#}");
        assert_eq!(broker["queued"]["messages"], 0);
        assert_eq!((&broker["store"]["dropped"], &broker["store"]["failures"]), (&0.into(), &0.into()));
        let ended = count("accepted") + count("refused") + count("over_limit") + count("abandoned");
        assert_eq!(count("sockets"), ended, "{broker:#}");
    }

    /// Messages published less messages seen, when nothing is on its way.
    pub fn settled_unseen(&self) -> u64 {
        let mut unseen = self.unseen();
        wait_until("all to be quiet", || {
            let before = std::mem::replace(&mut unseen, self.unseen());
            std::thread::sleep(Duration::from_millis(100));
            before == unseen
        });
        unseen
    }

    fn unseen(&self) -> u64 {
        // Asked first, for what is seen meanwhile was not published before.
        let seen = self.stage.seen().messages;
        self.broker()["published"].as_u64().unwrap() - seen
    }

    fn broker(&self) -> Value {
        self.gateway.status()["broker"].clone()
    }

    /// What was done so far.
    pub fn report(&self) -> String {
        let (broker, totals) = (self.broker(), &self.totals);
        let deeds: Vec<_> = self.far_ends.iter().map(|far_end| (far_end.device, far_end.deeds)).collect();
        format!(
            "{totals:?}, {} unplugs, {deeds:?}; {} connections, {} messages, dropped {}; {:?}",
            self.plug.unplugs,
            broker["sockets"],
            broker["published"],
            broker["dropped"],
            self.holdings(),
        )
    }
}

/// The kernel may have taken a command, or part of a batch, before the link failed.
fn may_be_heard(ledger: &Ledger) -> u64 {
    ledger.count("written") + ledger.dropped("write_failed")
}

/// A panic costs the frame that made it and at most the two lines that were read behind it; what a link leaves unfinished
/// counts once.
fn check_ends(device: &str, ledger: &Ledger, deeds: &Deeds) {
    let (panicked, partial) = (ledger.dropped("panicked"), ledger.dropped("partial"));
    assert_eq!(ledger.count("panics"), deeds.panics, "{device}: {ledger:?}");
    assert!((deeds.panics..=3 * deeds.panics).contains(&panicked), "{device}: {ledger:?}, {deeds:?}");
    assert!((deeds.closes..=deeds.closes + deeds.resets).contains(&partial), "{device}: {ledger:?}, {deeds:?}");
}

/// Nothing went wrong that was not wanted.
pub fn check_log(log: &[String]) {
    let wanted = ["the test asked for it", "panicked", "not reloaded", "gatepost.toml"];
    let is_wanted = |line: &&String| wanted.iter().any(|part| line.contains(part));
    let complaints: Vec<_> = log.iter().filter(|line| line.contains(" ERROR ") && !is_wanted(line)).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
