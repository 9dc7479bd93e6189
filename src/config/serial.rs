//! `serial = {…}`

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::error::Fault;
use super::reader::{Table, Value};
use super::units::MAX_WAIT;

/// `serial = {…}`
#[derive(Clone, Debug, PartialEq)]
pub struct Serial {
    /// Which port.
    pub port: SerialPort,
    /// Bits per second.
    pub baud: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// `parity`
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// `flow_control`
    pub flow_control: FlowControl,
    /// Lock the port against other programs (TIOCEXCL and flock).
    pub exclusive: bool,
    /// `dtr`
    pub dtr: ControlLine,
    /// `rts`
    pub rts: ControlLine,
    /// After opening wait so long and drop what arrives.
    pub settle: Duration,
    /// Whether closing lowers DTR (HUPCL).
    pub hangup: bool,
}

/// `serial.port`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialPort {
    /// A path, absolute after loading.
    Path(PathBuf),
    /// `usb:VVVV:PPPP[:SERIAL]`
    Usb {
        /// Vendor id.
        vendor: u16,
        /// Product id.
        product: u16,
        /// Serial number, if one of several equal devices is meant.
        serial: Option<String>,
    },
}

/// `parity`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Parity {
    None,
    Even,
    Odd,
}

/// `flow_control`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowControl {
    /// None.
    None,
    /// XON/XOFF.
    Software,
    /// RTS/CTS.
    Hardware,
}

/// `dtr` and `rts`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlLine {
    /// Raise after opening.
    On,
    /// Lower after opening.
    Off,
    /// Leave as opening left it.
    Keep,
}

/// `parity`, by word.
pub(super) const PARITIES: &[(&str, Parity)] = &[("none", Parity::None), ("even", Parity::Even), ("odd", Parity::Odd)];
/// `flow_control`, by word.
pub(super) const FLOW_CONTROLS: &[(&str, FlowControl)] =
    &[("none", FlowControl::None), ("software", FlowControl::Software), ("hardware", FlowControl::Hardware)];
/// `dtr` and `rts`, by word.
pub(super) const CONTROL_LINES: &[(&str, ControlLine)] =
    &[("on", ControlLine::On), ("off", ControlLine::Off), ("keep", ControlLine::Keep)];

impl Serial {
    /// Reads `serial`; also returns the value of `port`.
    pub(super) fn read<'a>(value: &Value<'a>) -> Option<(Serial, Value<'a>)> {
        let mut table = value.table()?;
        let port_value = table.require("port");
        let port = port_value.as_ref().and_then(SerialPort::read);
        let baud = table.get("baud").and_then(|v| v.integer(1..=i64::from(u32::MAX)));
        let line = |table: &mut Table<'_>, key| table.get(key).and_then(|v| v.choice(CONTROL_LINES));
        let flag = |table: &mut Table<'_>, key| table.get(key).and_then(|v| v.boolean());
        let serial = Serial {
            port: port.clone().unwrap_or(SerialPort::Path(PathBuf::new())),
            baud: baud.unwrap_or(9600),
            data_bits: table.get("data_bits").and_then(|v| v.integer(5..=8)).unwrap_or(8),
            parity: table.get("parity").and_then(|v| v.choice(PARITIES)).unwrap_or(Parity::None),
            stop_bits: table.get("stop_bits").and_then(|v| v.integer(1..=2)).unwrap_or(1),
            flow_control: table.get("flow_control").and_then(|v| v.choice(FLOW_CONTROLS)).unwrap_or(FlowControl::None),
            exclusive: flag(&mut table, "exclusive").unwrap_or(true),
            dtr: line(&mut table, "dtr").unwrap_or(ControlLine::On),
            rts: line(&mut table, "rts").unwrap_or(ControlLine::On),
            settle: table.get("settle").and_then(|v| v.duration(Duration::ZERO..=MAX_WAIT)).unwrap_or(Duration::ZERO),
            hangup: flag(&mut table, "hangup").unwrap_or(true),
        };
        if let Some(rs485) = table.get("rs485") {
            read_rs485(&rs485);
        }
        table.finish();
        port.and(Some(serial)).zip(port_value)
    }
}

impl SerialPort {
    fn read(value: &Value<'_>) -> Option<SerialPort> {
        match value.string()?.strip_prefix("usb:") {
            Some(_) => value.parsed(usb),
            None => value.path().map(SerialPort::Path),
        }
    }
}

impl FromStr for SerialPort {
    type Err = String;

    /// Reads `port` as it stands in the file; a relative path is relative to the working directory.
    fn from_str(text: &str) -> Result<SerialPort, String> {
        if text.starts_with("usb:") {
            return usb(text).map_err(|fault| match fault.hint {
                Some(hint) => format!("{}; hint: {hint}", fault.message),
                None => fault.message,
            });
        }
        if text.is_empty() {
            return Err("the port's name is empty; hint: `gatepost ports` lists the ports".to_owned());
        }
        std::path::absolute(text).map(SerialPort::Path).map_err(|error| error.to_string())
    }
}

/// Reads `usb:2341:0043` or `usb:2341:0043:SERIALNO`.
fn usb(text: &str) -> Result<SerialPort, Fault> {
    let example = "write for example \"usb:2341:0043\" or \"usb:2341:0043:SERIALNO\"; `gatepost ports` lists them";
    let id = |text: &str| {
        let good = text.len() == 4 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let fault = || Fault::new(format!("`{text}` is not a USB id of four hexadecimal digits")).hint(example);
        u16::from_str_radix(text, 16).ok().filter(|_| good).ok_or_else(fault)
    };
    let mut parts = text.splitn(4, ':').skip(1);
    let (Some(vendor), Some(product)) = (parts.next(), parts.next()) else {
        return Err(Fault::new("a USB port needs a vendor and a product id").hint(example));
    };
    let serial = parts.next().map(str::to_owned);
    if serial.as_deref() == Some("") {
        return Err(Fault::new("the serial number is empty").hint(example));
    }
    Ok(SerialPort::Usb { vendor: id(vendor)?, product: id(product)?, serial })
}

fn read_rs485(value: &Value<'_>) {
    let Some(mut table) = value.table() else { return };
    for key in ["rts_before_send", "rts_after_send"] {
        table.get(key).and_then(|v| v.duration(Duration::ZERO..=MAX_WAIT));
    }
    table.finish();
    value.refuse();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usb_ports_are_read() {
        let port = |serial: Option<&str>| SerialPort::Usb {
            vendor: 0x2341,
            product: 0x0043,
            serial: serial.map(str::to_owned),
        };
        assert_eq!(usb("usb:2341:0043"), Ok(port(None)));
        assert_eq!(usb("usb:2341:0043:A:B"), Ok(port(Some("A:B"))));
        for bad in ["usb:", "usb:2341", "usb:2341:43", "usb:2341:004g", "usb:2341:+043", "usb:2341:0043:"] {
            assert!(usb(bad).is_err(), "{bad}");
            assert!(bad.parse::<SerialPort>().is_err(), "{bad}");
        }
        assert_eq!("usb:2341:0043".parse(), Ok(port(None)));
        assert_eq!("/dev/ttyS0".parse(), Ok(SerialPort::Path("/dev/ttyS0".into())));
        assert!("".parse::<SerialPort>().is_err());
    }
}
