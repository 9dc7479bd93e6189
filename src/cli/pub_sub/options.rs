//! The flags that `pub` and `sub` share, and what they come to.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::{ArgAction, value_parser};

use super::tls_flags::TlsFlags;
use crate::cli::output;
use crate::mqtt_client::{ConnectOptions, Version, Will};
use crate::topic::TopicName;

/// Flags of both commands. They mean what they mean to mosquitto_pub and mosquitto_sub 2.0.
#[derive(clap::Args)]
pub struct ConnectArgs {
    /// Host to connect to [default: localhost]
    #[arg(short = 'h', long, value_name = "HOST")]
    host: Option<String>,
    /// Port to connect to [default: 1883, with TLS 8883]
    #[arg(short, long)]
    port: Option<u16>,
    /// All in one: mqtt[s]://[user[:password]@]host[:port][/topic]
    #[arg(short = 'L', long)]
    url: Option<String>,
    /// User name
    #[arg(short, long, value_name = "NAME", allow_hyphen_values = true)]
    username: Option<String>,
    /// Password; visible to others on this machine while the command runs
    #[arg(short = 'P', long = "pw", value_name = "PASSWORD", allow_hyphen_values = true)]
    password: Option<String>,
    /// Client id [default: the broker chooses]
    #[arg(short, long, allow_hyphen_values = true)]
    id: Option<String>,
    /// Client id is this and the process id
    #[arg(short = 'I', long, value_name = "PREFIX", conflicts_with = "id")]
    id_prefix: Option<String>,
    /// Quality of service: 0, 1 or 2
    #[arg(short, long, default_value_t = 0, value_parser = value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Seconds between signs of life, 5 to 65535
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u16).range(5..))]
    keepalive: u16,
    /// Keep the session on the broker after disconnecting; needs an id
    #[arg(short = 'c', long = "disable-clean-session")]
    keep_session: bool,
    /// MQTT 5: seconds the session is kept; -1 for ever [default: 0, with -c for ever]
    #[arg(short = 'x', long = "session-expiry-interval", value_name = "SECONDS", allow_hyphen_values = true)]
    session_expiry: Option<String>,
    /// MQTT version: mqttv311 (311) or mqttv5 (5)
    #[arg(short = 'V', long = "protocol-version", default_value = "mqttv311")]
    version: String,
    /// Print each packet that is sent or received
    #[arg(short, long)]
    debug: bool,
    /// Do not print run-time errors
    #[arg(long)]
    pub quiet: bool,
    #[command(flatten)]
    tls: TlsFlags,
    /// Topic of the will, which the broker publishes when this client is lost
    #[arg(long, value_name = "TOPIC")]
    will_topic: Option<String>,
    /// Payload of the will [default: nothing]
    #[arg(long, value_name = "PAYLOAD", allow_hyphen_values = true)]
    will_payload: Option<OsString>,
    /// Quality of service of the will
    #[arg(long, value_name = "QOS", default_value_t = 0, value_parser = value_parser!(u8).range(0..=2))]
    will_qos: u8,
    /// The will is a retained message
    #[arg(long)]
    will_retain: bool,
    /// Print this help
    #[arg(long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

/// What the flags come to.
pub struct Options {
    /// What to connect to, and as whom.
    pub connect: ConnectOptions,
    /// 0 to 2, of the subscriptions or messages.
    pub qos: u8,
    /// Topic of `-L`.
    pub topic: Option<String>,
    /// `--quiet`
    pub quiet: bool,
}

impl ConnectArgs {
    /// Checks the flags against each other.
    pub fn check(self) -> anyhow::Result<Options> {
        let url = self.url.as_deref().map(Url::parse).transpose()?.unwrap_or_default();
        let client_id = match self.id_prefix {
            Some(prefix) => format!("{prefix}{}", std::process::id()),
            None => self.id.unwrap_or_default(),
        };
        let version = match self.version.as_str() {
            "5" | "mqttv5" => Version::V5,
            "311" | "mqttv311" => Version::V311,
            other => bail!("-V {other}: no such MQTT version here\nhint: use mqttv311 or mqttv5"),
        };
        let session_expiry = session_expiry(self.session_expiry.as_deref(), self.keep_session)?;
        let kept_forever = version == Version::V5 && session_expiry == u32::MAX;
        ensure!(
            !client_id.is_empty() || !(self.keep_session || kept_forever),
            "a session that is kept needs a client id\nhint: give one with -i"
        );
        let will = will(self.will_topic, self.will_payload, self.will_qos, self.will_retain)?;
        self.tls.check()?;
        let tls = url.tls || self.tls.asked_for() || self.port.or(url.port) == Some(8883);
        let username = self.username.or(url.username);
        let password = self.password.or(url.password);
        ensure!(
            username.is_some() || password.is_none() || version == Version::V5,
            "-P without -u: MQTT 3.1.1 has no password without a user name"
        );
        let connect = ConnectOptions {
            host: self.host.or(url.host).unwrap_or_else(|| "localhost".to_owned()),
            port: self.port.or(url.port).unwrap_or(if tls { 8883 } else { 1883 }),
            version,
            client_id,
            credentials: (username.is_some() || password.is_some())
                .then(|| (username.unwrap_or_default(), password.unwrap_or_default())),
            keepalive: self.keepalive,
            clean: !self.keep_session,
            session_expiry,
            will,
            tls: tls.then(|| self.tls.client_tls()),
            packet_log: self.debug.then_some(output::note as fn(&str)),
        };
        Ok(Options { connect, qos: self.qos, topic: url.topic, quiet: self.quiet })
    }
}

fn session_expiry(text: Option<&str>, keep: bool) -> anyhow::Result<u32> {
    match text {
        None if keep => Ok(u32::MAX),
        None => Ok(0),
        Some("-1" | "∞") => Ok(u32::MAX),
        Some(text) => {
            text.parse().with_context(|| format!("-x {text}: give seconds from 0 to 4294967294, or -1 for no limit"))
        }
    }
}

fn will(topic: Option<String>, payload: Option<OsString>, qos: u8, retain: bool) -> anyhow::Result<Option<Will>> {
    let Some(topic) = topic else {
        ensure!(payload.is_none() && !retain, "a will needs a topic\nhint: give one with --will-topic");
        return Ok(None);
    };
    let payload = payload.map(|payload| Bytes::from(payload.into_vec())).unwrap_or_default();
    let topic = TopicName::new(topic.as_str()).with_context(|| format!("--will-topic '{topic}'"))?;
    Ok(Some(Will { topic, payload, qos, retain }))
}

/// What `-L` says.
#[derive(Debug, Default, PartialEq)]
struct Url {
    tls: bool,
    username: Option<String>,
    password: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    topic: Option<String>,
}

impl Url {
    fn parse(text: &str) -> anyhow::Result<Url> {
        let hint = "hint: write mqtt://[user[:password]@]host[:port][/topic], or mqtts:// for TLS";
        let (scheme, rest) = text.split_once("://").with_context(|| format!("-L: no scheme\n{hint}"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "mqtt" => false,
            "mqtts" => true,
            other => bail!("-L: the scheme {other}:// is not known\n{hint}"),
        };
        let (authority, topic) = rest.split_once('/').map_or((rest, None), |(host, topic)| (host, Some(topic)));
        let (user, address) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let (username, password) = match user.map(|user| user.split_once(':').ok_or(user)) {
            None => (None, None),
            Some(Ok((user, password))) => (Some(user), Some(password)),
            Some(Err(user)) => (Some(user), None),
        };
        let (host, port) = match address.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        ensure!(!host.is_empty(), "-L: no host\n{hint}");
        let port =
            port.map(str::parse).transpose().ok().with_context(|| format!("-L: the port is no number\n{hint}"))?;
        let owned = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Url {
            tls,
            username: owned(username),
            password: owned(password),
            host: owned(Some(host)),
            port,
            topic: owned(topic),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        connect: ConnectArgs,
    }

    fn check(line: &str) -> anyhow::Result<Options> {
        Line::try_parse_from(std::iter::once("test").chain(line.split_whitespace()))?.connect.check()
    }

    #[test]
    fn defaults_are_those_of_mosquitto() {
        let options = check("").unwrap().connect;
        assert_eq!((options.host.as_str(), options.port, options.keepalive), ("localhost", 1883, 60));
        assert_eq!((options.version, options.clean, options.session_expiry), (Version::V311, true, 0));
        assert!(options.tls.is_none() && options.will.is_none() && options.credentials.is_none());
    }

    #[test]
    fn urls() {
        let options = check("-L mqtts://me:se:cret@example.org/a/b@c").unwrap();
        assert_eq!(options.topic.as_deref(), Some("a/b@c"));
        let options = options.connect;
        assert_eq!((options.host.as_str(), options.port), ("example.org", 8883));
        assert_eq!(options.credentials, Some(("me".to_owned(), "se:cret".to_owned())));
        assert!(options.tls.is_some());
        let options = check("-L mqtt://[::1]:2000 -u other").unwrap();
        assert_eq!(options.topic, None);
        let options = options.connect;
        assert_eq!((options.host.as_str(), options.port), ("::1", 2000));
        assert_eq!(options.credentials, Some(("other".to_owned(), String::new())));
        for bad in ["-L http://x/y", "-L host", "-L mqtt:///t", "-L mqtt://h:x/t"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn port_8883_and_certificates_mean_tls() {
        for line in ["-p 8883", "--cafile ca.pem", "-L mqtt://h:8883/t"] {
            assert!(check(line).unwrap().connect.tls.is_some(), "{line}");
        }
        assert!(check("--cert a.pem").is_err());
        assert!(check("--insecure").unwrap().connect.tls.is_none());
    }

    #[test]
    fn sessions_and_wills_are_checked() {
        assert!(check("-c").is_err());
        assert_eq!(check("-c -i me").unwrap().connect.session_expiry, u32::MAX);
        assert_eq!(check("-i me -x 30").unwrap().connect.session_expiry, 30);
        assert!(check("-V 5 -x -1").is_err());
        assert!(check("-x soon").is_err());
        assert!(check("--will-payload x").is_err());
        assert!(check("--will-topic a/+").is_err());
        assert!(check("-V mqttv31").is_err());
        let will = check("--will-topic a --will-payload -x --will-qos 2 --will-retain").unwrap().connect.will.unwrap();
        assert_eq!((will.topic.as_str(), &will.payload[..], will.qos, will.retain), ("a", &b"-x"[..], 2, true));
    }
}
