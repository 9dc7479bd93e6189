use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The text of a configuration, in parts that may be there or not.
fn text() -> impl Strategy<Value = String> {
    let device = |name: &'static str| {
        let link = prop::sample::select(vec!["a:1", "b:2"]);
        let topic = prop::sample::select(vec!["x", "y"]);
        let set = prop::option::of(prop::sample::select(vec!["s", "t"]));
        let keys = prop::sample::subsequence(
            vec![
                "framing = \"slip\"",
                "queue = { max = 3 }",
                "write_gap = \"1ms\"",
                "allow_loop = true",
                "enabled = false",
            ],
            0..3,
        );
        prop::option::of((link, topic, set, keys)).prop_map(move |device| {
            let Some((link, topic, set, keys)) = device else { return String::new() };
            let set = set.map_or(String::new(), |set| format!("subscribe = \"{set}\"\n"));
            let keys = keys.join("\n");
            format!("[device.{name}]\ntcp = {{ connect = \"{link}\" }}\npublish = \"{topic}\"\n{set}{keys}\n")
        })
    };
    let listener = prop::sample::select(vec![
        "address = \"127.0.0.1:1\"",
        "address = \"127.0.0.1:1\"\nwebsocket = true",
        "address = \"127.0.0.1:2\"\nmax_connections = 5",
        "address = \"127.0.0.1:2\"\nallow_anonymous = true",
        "address = \"0.0.0.0:3\"",
        "address = \"[::]:3\"",
        "address = \"127.0.0.1:0\"",
        "address = \"127.0.0.1:0\"",
    ]);
    let listeners = prop::collection::vec(listener, 0..4).prop_map(|listeners| {
        let tables = listeners.iter().map(|keys| format!("[[broker.listener]]\n{keys}\n"));
        tables.collect::<String>()
    });
    let broker = prop::sample::subsequence(
        vec!["max_queued = 5", "sys_interval = \"0s\"", "max_retained = 7", "persistence = false", "max_qos = 1"],
        0..4,
    );
    let log = prop::sample::select(vec!["", "level = \"debug\"", "format = \"json\""]);
    let gateway =
        prop::sample::select(vec!["name = \"g\"", "name = \"h\"", "name = \"g\"\nstate_dir = \"/elsewhere\""]);
    let devices = [device("one"), device("two"), device("three")];
    (gateway, log, broker, listeners, devices).prop_map(|(gateway, log, broker, listeners, devices)| {
        let broker = broker.join("\n");
        format!("[gateway]\n{gateway}\n[log]\n{log}\n[broker]\n{broker}\n{listeners}{}", devices.concat())
    })
}

fn config() -> impl Strategy<Value = Config> {
    text().prop_filter_map("two of one address", |text| {
        config::parse(&text, "test.toml", "/".as_ref()).ok().map(|loaded| loaded.config)
    })
}

/// A gateway without wires: what a start makes of a configuration, and what applying a diff makes of that.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    /// What every device was started or changed with.
    devices: BTreeMap<String, (Device, config::Gateway)>,
    listeners: Vec<config::Listener>,
    broker: config::Broker,
    log: config::Log,
}

impl Model {
    fn start(config: &Config) -> Model {
        let device = |(name, device): (&String, &Device)| (name.clone(), (device.clone(), config.gateway.clone()));
        Model {
            devices: config.devices.iter().map(device).collect(),
            listeners: config.broker.listeners.clone(),
            broker: config.broker.clone(),
            log: config.log.clone(),
        }
    }

    fn apply(&mut self, diff: &Diff, new: &Config) {
        for name in diff.devices.to_stop() {
            assert!(self.devices.remove(name).is_some(), "{name} is stopped and does not run");
        }
        let before = std::mem::take(&mut self.listeners);
        let mut listeners = BTreeMap::new();
        for &at in &diff.listeners.added {
            assert!(listeners.insert(at, new.broker.listeners[at].clone()).is_none());
        }
        for &(from, to) in &diff.listeners.kept {
            // The sockets are those of before.
            let address = before[from].address.clone();
            assert!(listeners.insert(to, config::Listener { address, ..new.broker.listeners[to].clone() }).is_none());
        }
        assert_eq!(diff.listeners.removed.len() + diff.listeners.kept.len(), before.len());
        self.listeners = listeners.into_values().collect();
        for name in &diff.devices.rules_changed {
            // All but what belongs to the rules stays as it was.
            let (running, _) = self.devices.get_mut(name).unwrap();
            let Device { publish, subscribe, queue, allow_loop, .. } = new.devices[name].clone();
            *running = Device { publish, subscribe, queue, allow_loop, ..running.clone() };
        }
        if diff.log_level {
            self.log.level.clone_from(&new.log.level);
        }
        for name in diff.devices.to_start() {
            let device = (new.devices[name].clone(), new.gateway.clone());
            assert!(self.devices.insert(name.clone(), device).is_none(), "{name} is started twice");
        }
        self.broker = new.broker.clone();
    }
}

proptest! {
    #[test]
    fn a_then_b_leaves_what_starting_with_b_gives(a in config(), b in config()) {
        let diff = Diff::between(&a, &b);
        let in_force = in_force(&a, b.clone());
        let mut model = Model::start(&a);
        model.apply(&diff, &in_force);
        let mut expected = Model::start(&in_force);
        // Where state is kept does not matter to a device that goes on.
        for ((_, gateway), (_, running)) in expected.devices.values_mut().zip(model.devices.values()) {
            gateway.state_dir.clone_from(&running.state_dir);
        }
        prop_assert_eq!(&model, &expected);
        // Only what was said to need a restart is not as B wants it.
        let left = Diff::between(&in_force, &b);
        let listeners = left.listeners.clone();
        prop_assert_eq!(left, Diff { listeners, needs_restart: diff.needs_restart, ..Diff::default() });
    }

    #[test]
    fn the_same_again_changes_nothing(a in config()) {
        let diff = Diff::between(&a, &a);
        let kept = (0..a.broker.listeners.len()).map(|at| (at, at)).collect();
        prop_assert_eq!(&diff, &Diff { listeners: ListenerChanges { kept, ..Default::default() }, ..Diff::default() });
        prop_assert!(diff.summary(&a, &a, Vec::new()).changes.is_empty());
    }

    #[test]
    fn unchanged_devices_are_not_touched(a in config(), b in config()) {
        let diff = Diff::between(&a, &b);
        for (name, device) in &a.devices {
            let touched = diff.devices.to_stop().chain(&diff.devices.rules_changed).any(|other| other == name);
            prop_assert_eq!(touched, diff.identity || b.devices.get(name) != Some(device));
        }
    }
}

#[test]
fn a_summary_of_nothing_says_that_files_were_read() {
    let nothing = Summary::default().to_string();
    assert!(nothing.starts_with("nothing has changed") && nothing.ends_with("were read again"), "{nothing}");
}

#[test]
fn the_summary_names_every_change() {
    let parse = |text: &str| config::parse(text, "test.toml", "/".as_ref()).unwrap().config;
    let a = parse(
        "[gateway]\nname = \"g\"\n[broker]\n[[broker.listener]]\naddress = \"127.0.0.1:1\"\n\
         [device.gone]\ntcp = { connect = \"h:1\" }\npublish = \"a\"\n\
         [device.moved]\ntcp = { connect = \"h:2\" }\npublish = \"b\"\n\
         [device.ruled]\ntcp = { connect = \"h:3\" }\npublish = \"c\"\n",
    );
    let b = parse(
        "[gateway]\nname = \"g\"\nstate_dir = \"/x\"\n[log]\nlevel = \"debug\"\n[broker]\nmax_queued = 3\n\
         [[broker.listener]]\naddress = \"127.0.0.1:2\"\n\
         [device.new]\ntcp = { connect = \"h:1\" }\npublish = \"a\"\n\
         [device.moved]\ntcp = { connect = \"h:9\" }\npublish = \"b\"\n\
         [device.ruled]\ntcp = { connect = \"h:3\" }\npublish = \"d\"\n",
    );
    let summary = Diff::between(&a, &b).summary(&a, &b, Vec::new());
    // The tests may run with that variable.
    let said = summary.to_string().replace(", but $GATEPOST_LOG overrides it", "");
    assert_eq!(
        said,
        "device gone removed, device moved restarted, listener 127.0.0.1:1 removed, listener 127.0.0.1:2 added, \
         [broker] max_queued, rules of device ruled changed, [log] level, device new added; \
         only after a restart: [gateway] state_dir"
    );
}
