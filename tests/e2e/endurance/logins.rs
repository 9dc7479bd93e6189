//! Logins leave no memory behind, take no more of it than is said, and who comes back is let in at once.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::{BufMut, BytesMut};
use gatepost::broker::auth::password;
use tempfile::TempDir;

use crate::common::holdings::status_field;
use crate::common::{DEADLINE, Gateway, wait_until, wire};

/// Users, each with a hash as `gatepost passwd` writes it: 19 MiB.
const USERS: u32 = 200;

/// What passwords that are checked at once may take together: `MEMORY` in src/broker/auth.rs.
const HASHES_KIB: u64 = 96 * 1024;

/// What may stay: buffers, threads that wait a while for more, pages the allocator has not given back.
const SLACK_KIB: u64 = 5 * 1024;

const CONFIG: &str = r#"
[log]
level = "info,gatepost::broker=error,gatepost::broker::listener=info"
format = "plain"

[broker]
persistence = false
password_file = "passwd"

[[broker.listener]]
address = "127.0.0.1:0"
"#;

struct House(Gateway);

impl House {
    fn start() -> House {
        let dir = TempDir::new().unwrap();
        let hash = password::create(b"secret").unwrap();
        let lines: String = (0..USERS).map(|user| format!("u{user}:{hash}\n")).collect();
        std::fs::write(dir.path().join("passwd"), lines).unwrap();
        House(Gateway::start_with(dir, CONFIG))
    }

    /// CONNECT is sent.
    fn knock(&self, user: u32, password: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.0.port())).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut packet = BytesMut::new();
        wire::packet(&mut packet, 0x10, |body| {
            wire::text(body, "MQTT");
            // Clean session, user name, password; keep-alive.
            body.extend_from_slice(&[4, 0xc2]);
            body.put_u16(60);
            let name = format!("u{}", user % USERS);
            for field in [&format!("c{user}"), &name, password] {
                wire::text(body, field);
            }
        });
        stream.write_all(&packet).unwrap();
        stream
    }

    /// The code of CONNACK.
    fn answer(stream: &mut TcpStream) -> u8 {
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).unwrap();
        connack[3]
    }

    fn one_after_the_other(&self, count: u32, password: &str, code: u8) {
        for user in 0..count {
            assert_eq!(House::answer(&mut self.knock(user, password)), code);
        }
    }

    fn at_once(&self, password: &str, code: u8) {
        let mut clients: Vec<_> = (0..USERS).map(|user| self.knock(user, password)).collect();
        clients.iter_mut().for_each(|client| assert_eq!(House::answer(client), code));
    }

    /// Runs `work`: the memory it leaves and the most it takes are bounded. Returns the processor time it
    /// takes, in ticks.
    fn measure(&self, what: &str, work: impl FnOnce(&House)) -> u64 {
        let resident = || status_field(self.0.id(), "VmRSS:");
        // Begins the peak anew (proc(5)).
        std::fs::write(format!("/proc/{}/clear_refs", self.0.id()), "5").unwrap();
        let (before, began) = (resident(), self.processor_time());
        work(self);
        let took = self.processor_time() - began;
        let peak = status_field(self.0.id(), "VmHWM:");
        println!("{what}: {before} KiB before, {} KiB after, {peak} KiB at the peak, {took} ticks", resident());
        wait_until(&format!("memory to be as before: {what}"), || resident() <= before + SLACK_KIB);
        assert!(peak <= before + HASHES_KIB + 2 * SLACK_KIB, "{what}: {before} KiB before, {peak} KiB at the peak");
        took
    }

    /// In ticks, of all its threads, those that have ended included.
    fn processor_time(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        // utime and stime, the 14th and 15th field; the second may contain spaces.
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
        fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }
}

fn logins_leave_memory_where_it_was(count: u32) {
    let house = House::start();
    house.measure("wrong, one after the other", |house| house.one_after_the_other(count, "wrong", 5));
    let hashed = house.measure("at once", |house| house.at_once("secret", 0));
    let known = house.measure("at once, again", |house| house.at_once("secret", 0));
    assert!(known < hashed / 4, "a proved password costs nothing: {known} ticks, at first {hashed}");
    house.measure("right, one after the other", |house| house.one_after_the_other(count, "secret", 0));
    house.measure("wrong, at once", |house| house.at_once("wrong", 5));
    house.0.terminate();
}

#[test]
fn many_logins_leave_memory_where_it_was() {
    logins_leave_memory_where_it_was(60);
}

#[test]
#[ignore = "takes long"]
fn a_thousand_logins_leave_memory_where_it_was() {
    logins_leave_memory_where_it_was(1000);
}
