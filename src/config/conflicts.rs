//! What two parts of a configuration cannot both have: a serial port, an address to listen on.

use super::address;
use super::broker::Broker;
use super::device::{Checked, Transport};
use super::error::Report;
use super::reader::{Context, Value};
use super::source::Place;

/// An address to listen on, who does, and where that stands (nowhere for a default).
struct Claim<'a> {
    address: &'a str,
    place: Option<Place>,
}

/// Reports listeners and enabled devices that exclude each other.
pub(super) fn report(context: &Context, broker: &Broker, listeners: &[Place], devices: &[Checked<'_>]) {
    let mut claims = Vec::new();
    for (index, listener) in broker.listeners.iter().enumerate() {
        let place = listeners.get(index).copied();
        claim(context, &mut claims, &listener.address, place, "broker.listener.address");
    }
    let mut enabled: Vec<&Checked<'_>> = devices.iter().filter(|device| device.enabled).collect();
    enabled.sort_by_key(|device| device.endpoint.as_ref().map(Value::place));
    for device in &enabled {
        if let (Transport::TcpServer(server), Some(value)) = (&device.device.transport, &device.endpoint) {
            claim(context, &mut claims, &server.listen, Some(value.place()), &value.path);
        }
    }
    report_ports(context, &enabled);
}

fn claim<'a>(context: &Context, claims: &mut Vec<Claim<'a>>, address: &'a str, place: Option<Place>, key: &str) {
    let taken = claims.iter().find(|claim| address::clash(claim.address, address));
    if let (Some(taken), Some(place)) = (taken, place) {
        let report = Report::new(place, key, format!("`{address}` is taken: only one can listen on an address"));
        context.push(match taken.place {
            Some(first) => report.note("it is taken at", Some(first)),
            None => report.note(format!("without [[broker.listener]] the broker listens on {}", taken.address), None),
        });
    }
    claims.push(Claim { address, place });
}

fn report_ports(context: &Context, devices: &[&Checked<'_>]) {
    let ports: Vec<_> = devices
        .iter()
        .filter_map(|device| match (&device.device.transport, &device.endpoint) {
            (Transport::Serial(serial), Some(value)) => Some((&serial.port, value)),
            _ => None,
        })
        .collect();
    for (index, (port, value)) in ports.iter().enumerate() {
        if let Some((_, first)) = ports[..index].iter().find(|(other, _)| other == port) {
            let report = value.error("this port belongs to another device already");
            context.push(report.note("it is used at", Some(first.place())));
        }
    }
}
