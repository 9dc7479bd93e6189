//! rumqttc's MQTT 3.1.1 event loop.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Disconnect, EventLoop, LastWill, MqttOptions, NetworkOptions,
    Packet, PubAck, PubRec, QoS, Request, StateError, Subscribe, SubscribeFilter, SubscribeReasonCode, TlsError,
    Transport,
};

use super::error::Cause;
use super::{ConnectOptions, Event, MAX_INFLIGHT, MAX_PACKET_BYTES, Message, host_for_url};

/// Flushing one 256 MiB packet over a slow line may take this long; dead peers are found by keep-alive.
const FLUSH_SECONDS: u64 = 24 * 3600;

pub struct Link {
    events: EventLoop,
    pub sender: AsyncClient,
    acknowledge: bool,
    /// The end of the connection, held back until what came before it has been handed out.
    end: Option<Cause>,
}

impl Link {
    pub fn new(options: &ConnectOptions, transport: Transport) -> Link {
        let host = if options.tls.is_some() { options.host.clone() } else { host_for_url(&options.host) };
        let mut mqtt = MqttOptions::new(&options.client_id, host, options.port);
        mqtt.set_transport(transport)
            .set_clean_session(options.clean)
            .set_keep_alive(Duration::from_secs(options.keepalive.into()))
            .set_max_packet_size(MAX_PACKET_BYTES as usize, MAX_PACKET_BYTES as usize)
            .set_inflight(MAX_INFLIGHT)
            .set_manual_acks(!options.clean);
        if let Some((user, password)) = &options.credentials {
            mqtt.set_credentials(user, password);
        }
        if let Some(will) = &options.will {
            mqtt.set_last_will(LastWill::new(will.topic.as_str(), will.payload.clone(), qos(will.qos), will.retain));
        }
        let (sender, mut events) = AsyncClient::new(mqtt, MAX_INFLIGHT.into());
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(FLUSH_SECONDS);
        events.set_network_options(network);
        if !options.clean {
            expect_any_pubrel(&mut events);
        }
        Link { events, sender, acknowledge: !options.clean, end: None }
    }

    pub async fn next(&mut self) -> Result<Event, Cause> {
        let next = match self.end.is_some() {
            true => self.events.state.events.pop_front(),
            false => match self.events.poll().await {
                Ok(event) => Some(event),
                Err(error) => {
                    self.end = Some(cause(error));
                    self.events.state.events.pop_front()
                }
            },
        };
        match next {
            Some(rumqttc::Event::Incoming(packet)) => Ok(event(packet)),
            Some(rumqttc::Event::Outgoing(outgoing)) => Ok(Event::Sent(outgoing)),
            None => Err(self.end.take().unwrap_or(Cause::Closed)),
        }
    }

    pub fn has_more(&self) -> bool {
        !self.events.state.events.is_empty()
    }

    pub fn subscribe(&mut self, filters: &[String], level: u8) {
        let filters = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), qos(level)));
        self.events.pending.push_back(Request::Subscribe(Subscribe::new_many(filters)));
    }

    pub fn acknowledge(&mut self, message: &Message) {
        match message.qos {
            1 if self.acknowledge => self.events.pending.push_back(Request::PubAck(PubAck::new(message.packet_id))),
            2 if self.acknowledge => self.events.pending.push_back(Request::PubRec(PubRec::new(message.packet_id))),
            _ => {}
        }
    }

    pub fn disconnect(&mut self) {
        self.events.pending.push_back(Request::Disconnect(Disconnect));
    }
}

/// A session that is kept may hold QoS 2 messages whose PUBREC an earlier run sent. rumqttc takes the PUBREL for
/// such a one for a protocol error and would drop the connection each time; so it is told that each packet id
/// may come.
fn expect_any_pubrel(events: &mut EventLoop) {
    for id in 1..=u16::MAX {
        let mut publish = rumqttc::Publish::new("-", QoS::ExactlyOnce, Bytes::new());
        publish.pkid = id;
        // With manual acknowledgement this only notes the id.
        let _ = events.state.handle_incoming_packet(Packet::Publish(publish));
        events.state.events.clear();
    }
}

pub fn qos(level: u8) -> QoS {
    match level {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

fn event(packet: Packet) -> Event {
    match packet {
        Packet::ConnAck(_) => Event::Connected,
        Packet::Publish(publish) => Event::Message(Message {
            topic: publish.topic.into(),
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.pkid,
            properties: None,
        }),
        Packet::PubRel(pubrel) => Event::Released(pubrel.pkid),
        Packet::SubAck(suback) => Event::Subscribed(
            suback.pkid,
            suback
                .return_codes
                .iter()
                .map(|code| match code {
                    SubscribeReasonCode::Success(qos) => *qos as u8,
                    SubscribeReasonCode::Failure => 128,
                })
                .collect(),
        ),
        Packet::PubAck(puback) => Event::Acknowledged(puback.pkid, 0),
        Packet::PubRec(pubrec) => Event::Received(pubrec.pkid, 0),
        Packet::PubComp(pubcomp) => Event::Completed(pubcomp.pkid),
        Packet::PingResp => Event::Alive,
        _ => Event::Other,
    }
}

fn cause(error: ConnectionError) -> Cause {
    match error {
        ConnectionError::ConnectionRefused(code) => Cause::Refused(match code {
            ConnectReturnCode::Success => 0,
            ConnectReturnCode::RefusedProtocolVersion => 1,
            ConnectReturnCode::BadClientId => 2,
            ConnectReturnCode::ServiceUnavailable => 3,
            ConnectReturnCode::BadUserNamePassword => 4,
            ConnectReturnCode::NotAuthorized => 5,
        }),
        ConnectionError::Io(error) | ConnectionError::Tls(TlsError::Io(error)) => Cause::Io(error),
        ConnectionError::MqttState(StateError::Io(error)) => Cause::Io(error),
        ConnectionError::MqttState(StateError::ConnectionAborted) => Cause::Closed,
        ConnectionError::MqttState(StateError::AwaitPingResp) => Cause::Timeout,
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => Cause::Timeout,
        ConnectionError::MqttState(StateError::Deserialization(_)) | ConnectionError::NotConnAck(_) => {
            Cause::NotMqtt(error.to_string())
        }
        other => Cause::Other(other.to_string()),
    }
}
