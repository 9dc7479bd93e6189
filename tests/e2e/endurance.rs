//! What must still be so after a long time. `./test` runs these with the release build.

use std::io::{BufWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use tempfile::TempDir;

use crate::common::{Gateway, Holdings, Mqtt, Port, holdings, wait_until};

mod logins;
mod memory;

const BOARD_STATUS: &str = "gatepost/test/device/board/status";

/// So many messages fill the router's log; from then on it takes no more memory.
const LOG_FULL: u32 = 10_000;

/// A TCP device that sends numbered lines until it is told to stop: many at first, then a thousand a second.
struct Flow {
    port: u16,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u32>,
}

impl Flow {
    fn start() -> Flow {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sender = std::thread::spawn(move || {
            let (mut link, _) = listener.accept().unwrap();
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                writeln!(link, "{sent}").unwrap();
                sent += 1;
                if sent > LOG_FULL {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            writeln!(link, "end").unwrap();
            sent
        });
        Flow { port, stop, sender }
    }

    /// Stops it and checks that `messages` has all its lines from `first` on, once each and in order.
    fn finish(self, messages: &Mqtt, first: u32) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap();
        for expected in first..sent {
            assert_eq!(messages.receive().text(), expected.to_string());
        }
        assert_eq!(messages.receive().text(), "end");
    }
}

#[test]
#[ignore = "takes long"]
fn a_thousand_unplugs_leave_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let mut port = Port::plugged(dir.path(), "ttyUSB0");
    let flow = Flow::start();
    let config = format!(
        r#"
[device.board]
serial = {{ port = "{}", baud = 9600 }}
reconnect = {{ min = "1ms", max = "5ms" }}
publish = "board"
subscribe = "board/set"

[device.flow]
tcp = {{ connect = "127.0.0.1:{}" }}
publish = "flow"
"#,
        port.path(),
        flow.port
    );
    let gateway = Gateway::start_in(dir, &config);
    let flowing = Mqtt::subscriber(gateway.port(), "flow");
    let first = flowing.receive().text().parse::<u32>().unwrap();
    let watch = Mqtt::subscriber(gateway.port(), BOARD_STATUS);
    watch.expect(BOARD_STATUS, "online");
    watch.subscribe("board", 1);
    for topic in ["board", BOARD_STATUS] {
        for _ in 0..LOG_FULL {
            watch.publish(topic, "filling", 0);
        }
        watch.publish(topic, "filled", 1);
        watch.expect(topic, "filled");
    }
    watch.retain(BOARD_STATUS, "online");

    let mut settled = None;
    for round in 0..1000 {
        watch.expect(BOARD_STATUS, "online");
        port.write(format!("round {round}\nunfinished"));
        watch.expect("board", format!("round {round}"));
        if round == 200 {
            settled = Some(Holdings::of(gateway.id()));
        }
        port.unplug();
        watch.expect(BOARD_STATUS, "offline");
        port.plug();
    }
    watch.expect(BOARD_STATUS, "online");
    let settled: Holdings = settled.unwrap();
    wait_until("descriptors and threads to be as many as before", || {
        let now = Holdings::of(gateway.id());
        now.descriptors <= settled.descriptors && now.threads <= settled.threads
    });
    let grown = Holdings::of(gateway.id()).resident_kib.saturating_sub(settled.resident_kib);
    // Less than any buffer of a link would take; the allocator needs some room.
    assert!(grown < 2048, "{grown} KiB more than {settled:?}");
    flow.finish(&flowing, first + 1);
    let board = gateway.ledger("board");
    assert_eq!((board.count("published"), board.count("reconnects")), (1000, 1000));
    assert_eq!(board.dropped_at_all(), board.dropped("partial"), "{board:?}");
    gateway.ledger("flow").expect_nothing_dropped();
    gateway.terminate();
}

#[test]
#[ignore = "takes long"]
fn a_million_lines_at_full_speed_all_arrive_once_and_in_order() {
    const LINES: u32 = 1_000_000;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = format!("[device.fast]\ntcp = {{ connect = \"127.0.0.1:{port}\" }}\npublish = \"fast\"\n");
    let gateway = Gateway::start(&config);
    let (link, _) = listener.accept().unwrap();

    let mut options = MqttOptions::new("counter", "127.0.0.1", gateway.port());
    options.set_keep_alive(Duration::from_secs(60));
    let (client, mut connection) = Client::new(options, 10);
    client.subscribe("fast", QoS::AtLeastOnce).unwrap();
    let mut sender = None;
    let mut expected = 0;
    let mut link = Some(link);
    for event in connection.iter() {
        match event.expect("the connection holds") {
            Event::Incoming(Packet::SubAck(_)) => sender = link.take().map(|link| send_numbers(link, LINES)),
            Event::Incoming(Packet::Publish(publish)) => {
                assert_eq!(publish.payload, expected.to_string(), "lost, repeated or out of order");
                assert_eq!(publish.qos, QoS::AtLeastOnce);
                expected += 1;
                if expected == LINES {
                    break;
                }
            }
            _ => {}
        }
    }
    sender.unwrap().join().unwrap();
    let peak = holdings::status_field(gateway.id(), "VmHWM:");
    assert!(peak < 64 * 1024, "{peak} KiB at the peak");
    let ledger = gateway.ledger("fast");
    ledger.expect_nothing_dropped();
    assert_eq!(ledger.count("published"), u64::from(LINES));
    gateway.terminate();
}

/// Writes the numbers as lines as fast as they are taken.
fn send_numbers(link: TcpStream, count: u32) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut link = BufWriter::with_capacity(65536, link);
        for number in 0..count {
            writeln!(link, "{number}").unwrap();
        }
        link.flush().unwrap();
    })
}
