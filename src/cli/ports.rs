//! `gatepost ports`.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use super::{escape, exit, output};
use crate::machine::holders::{Holder, Holders};
use crate::transport::ports::{self, Port};

const EXAMPLES: &str = "\
Examples:
  gatepost ports
  gatepost ports --json | jq -r '.[].port'

--json prints an array with one object a port. Its keys; what is not known is null:
  path              /dev/ttyUSB0; may change when ports are plugged in in another order
  stable_path       a path that stays with the device
  port              what to write as `port` in gatepost.toml: usb:VVVV:PPPP[:SERIAL] where that
                    is this port alone, else stable_path, else path
  driver            the kernel's driver
  usb_vendor_id     four hexadecimal digits
  usb_product_id    likewise
  usb_interface     number of the interface, for devices with several ports
  serial_number     what the device says of itself
  manufacturer      likewise
  product           likewise
  open_by           array of {\"pid\", \"name\"}: who has the port open
  open_by_complete  false if processes of other users could not be looked into

Exit codes: 0.";

/// List serial ports, and who has each open.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let ports = ports::list();
    let holders = Holders::scan();
    let rows: Vec<Row> = ports.iter().map(|port| Row::new(port, &ports, &holders)).collect();
    let text = if args.json { json(&rows) } else { text(&rows) };
    output::print(&text, exit::OK)
}

/// One port; its fields are the keys of the JSON.
#[derive(Debug, Default, Serialize)]
struct Row {
    path: String,
    stable_path: Option<String>,
    port: String,
    driver: Option<String>,
    usb_vendor_id: Option<String>,
    usb_product_id: Option<String>,
    usb_interface: Option<u8>,
    serial_number: Option<String>,
    manufacturer: Option<String>,
    product: Option<String>,
    open_by: Vec<Opener>,
    open_by_complete: bool,
}

#[derive(Debug, Serialize)]
struct Opener {
    pid: u32,
    name: String,
}

impl Row {
    fn new(port: &Port, all: &[Port], holders: &Holders) -> Row {
        let path = port.path.display().to_string();
        let stable_path = port.stable_path.as_ref().map(|path| path.display().to_string());
        let row = Row {
            port: name_to_write(port, all),
            path,
            stable_path,
            driver: port.driver.clone(),
            open_by: holders.of(&port.path).iter().map(Opener::new).collect(),
            open_by_complete: holders.is_complete(),
            ..Row::default()
        };
        let Some(usb) = &port.usb else { return row };
        Row {
            usb_vendor_id: Some(format!("{:04x}", usb.vendor)),
            usb_product_id: Some(format!("{:04x}", usb.product)),
            usb_interface: usb.interface,
            serial_number: usb.serial.clone(),
            manufacturer: usb.manufacturer.clone(),
            product: usb.name.clone(),
            ..row
        }
    }
}

impl Opener {
    fn new(holder: &Holder) -> Opener {
        Opener { pid: holder.pid, name: holder.name.clone() }
    }
}

/// What to write as `port`: the USB ids where they mean this port alone, else a path that stays, else the path.
pub(super) fn name_to_write(port: &Port, all: &[Port]) -> String {
    let path = port.stable_path.as_ref().unwrap_or(&port.path);
    usb_name(port, all).unwrap_or_else(|| path.display().to_string())
}

/// `usb:VVVV:PPPP[:SERIAL]`, if no other port of `all` has the same name.
fn usb_name(port: &Port, all: &[Port]) -> Option<String> {
    let name = |port: &Port| {
        let usb = port.usb.as_ref()?;
        let serial = usb.serial.as_ref().map(|serial| format!(":{serial}")).unwrap_or_default();
        Some(format!("usb:{:04x}:{:04x}{serial}", usb.vendor, usb.product))
    };
    let own = name(port)?;
    (all.iter().filter(|other| name(other).as_ref() == Some(&own)).count() == 1).then_some(own)
}

fn json(rows: &[Row]) -> String {
    match serde_json::to_string_pretty(rows) {
        Ok(json) => json + "\n",
        Err(error) => unreachable!("strings and numbers are JSON: {error}"),
    }
}

fn text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "No serial ports found. Plug the device in and run this again. The UART on the pins of a Raspberry Pi \
                is enabled with raspi-config, Interface Options.\n"
            .into();
    }
    let mut text = String::new();
    for row in rows {
        let _ = writeln!(text, "{}", row.path);
        // What a device says of itself stays on its line.
        let said = [&row.manufacturer, &row.product].into_iter().flatten().map(|said| escape::text(said));
        let device = said.collect::<Vec<_>>().join(" ");
        let open_by: Vec<String> = row.open_by.iter().map(|by| format!("{} (pid {})", by.name, by.pid)).collect();
        for (name, value) in [
            ("device", (!device.is_empty()).then_some(device)),
            ("serial no", row.serial_number.as_deref().map(escape::text)),
            ("usb id", row.usb_vendor_id.clone().zip(row.usb_product_id.clone()).map(|(v, p)| format!("{v}:{p}"))),
            ("driver", row.driver.clone()),
            ("stable", row.stable_path.clone()),
            ("open by", (!open_by.is_empty()).then(|| open_by.join(", "))),
            ("config", Some(format!("serial = {{ port = {:?}, baud = 9600 }}", row.port))),
        ] {
            if let Some(value) = value {
                let _ = writeln!(text, "  {name:<9}  {value}");
            }
        }
    }
    if rows.iter().any(|row| !row.open_by_complete) {
        text += "\nPrograms of other users that have a port open are seen by root only: sudo gatepost ports\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::ports::Usb;

    fn adapter(path: &str, serial: Option<&str>) -> Port {
        Port {
            path: path.into(),
            stable_path: Some(format!("/dev/serial/by-id/{}", &path[5..]).into()),
            driver: Some("ftdi_sio".into()),
            usb: Some(Usb {
                vendor: 0x0403,
                product: 0x6001,
                serial: serial.map(Into::into),
                manufacturer: Some("FTDI".into()),
                name: Some("FT232R USB UART".into()),
                interface: Some(0),
            }),
        }
    }

    fn rows() -> Vec<Row> {
        let on_board =
            Port { path: "/dev/ttyAMA0".into(), stable_path: None, driver: Some("uart-pl011".into()), usb: None };
        let ports = [
            on_board,
            adapter("/dev/ttyUSB0", Some("A50285BI")),
            adapter("/dev/ttyUSB1", None),
            adapter("/dev/ttyUSB2", None),
        ];
        let mut rows: Vec<Row> = ports.iter().map(|port| Row::new(port, &ports, &Holders::default())).collect();
        rows[1].open_by.push(Opener { pid: 412, name: "minicom".into() });
        rows
    }

    #[test]
    fn the_text_is_for_people() {
        let rows = rows();
        assert_eq!(
            text(&rows[..2]),
            "\
/dev/ttyAMA0
  driver     uart-pl011
  config     serial = { port = \"/dev/ttyAMA0\", baud = 9600 }
/dev/ttyUSB0
  device     FTDI FT232R USB UART
  serial no  A50285BI
  usb id     0403:6001
  driver     ftdi_sio
  stable     /dev/serial/by-id/ttyUSB0
  open by    minicom (pid 412)
  config     serial = { port = \"usb:0403:6001:A50285BI\", baud = 9600 }

Programs of other users that have a port open are seen by root only: sudo gatepost ports
"
        );
        assert!(text(&[]).starts_with("No serial ports found."));
    }

    #[test]
    fn the_json_keeps_its_keys() {
        let rows = rows();
        let value: serde_json::Value = serde_json::from_str(&json(&rows)).unwrap();
        assert_eq!(
            value[1],
            serde_json::json!({
                "path": "/dev/ttyUSB0",
                "stable_path": "/dev/serial/by-id/ttyUSB0",
                "port": "usb:0403:6001:A50285BI",
                "driver": "ftdi_sio",
                "usb_vendor_id": "0403",
                "usb_product_id": "6001",
                "usb_interface": 0,
                "serial_number": "A50285BI",
                "manufacturer": "FTDI",
                "product": "FT232R USB UART",
                "open_by": [{"pid": 412, "name": "minicom"}],
                "open_by_complete": false,
            })
        );
        assert_eq!(value[0]["usb_vendor_id"], serde_json::Value::Null);
        // Two alike: the USB ids would not say which.
        assert_eq!(value[2]["port"], "/dev/serial/by-id/ttyUSB1");
        assert_eq!(json(&[]), "[]\n");
    }
}
