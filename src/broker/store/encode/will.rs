//! Wills.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Damage, EXPIRES, Input, Output, RETAIN};
use crate::broker::packet::WillRequest;
use crate::broker::store::change::{SessionRecord, StoredWill, WillId};
use crate::qos::Qos;

/// A will: who it belongs to, what is known of its connection, the message.
pub(in crate::broker::store) fn will(will: WillId, record: &StoredWill) -> Vec<u8> {
    let StoredWill { client_id, username, request, expiry, silence, ended_at } = record;
    let mut out = Output::new(client_id.len() + request.topic.len() + request.payload.len() + 64);
    let expires = if request.expiry.is_some() { EXPIRES } else { 0 };
    out.byte(request.qos as u8 | if request.retain { RETAIN } else { 0 } | expires);
    let session = SessionRecord { expiry: *expiry, username: username.clone(), ended_at: *ended_at };
    out.record(&session);
    out.text(client_id);
    out.number(silence.map_or(0, |silence| silence.as_millis() as u64));
    out.number(request.delay.into());
    out.number(request.expiry.unwrap_or(0).into());
    out.text(&request.topic);
    out.number(request.properties.len() as u64);
    out.0.extend_from_slice(&request.properties);
    out.0.extend_from_slice(&request.payload);
    out.sealed(&[&will.get().to_le_bytes()])
}

/// The reverse of [`will`].
pub(in crate::broker::store) fn decode_will(will: WillId, bytes: &[u8]) -> Result<StoredWill, Damage> {
    let mut input = Input::open(bytes, &[&will.get().to_le_bytes()])?;
    let flags = input.byte()?;
    let SessionRecord { expiry, username, ended_at } = input.record()?;
    let client_id = Arc::from(input.text()?);
    let silence = Some(input.number()?).filter(|&millis| millis != 0).map(Duration::from_millis);
    let (delay, expires) = (input.small()?, input.small()?);
    let request = WillRequest {
        topic: input.text()?.to_owned(),
        properties: Bytes::copy_from_slice(input.bytes()?),
        payload: Bytes::copy_from_slice(input.0),
        qos: Qos::from_u8(flags & 3).ok_or(Damage::Form)?,
        retain: flags & RETAIN != 0,
        expiry: (flags & EXPIRES != 0).then_some(expires),
        delay,
    };
    Ok(StoredWill { client_id, username, request, expiry, silence, ended_at })
}
