//! rumqttc's MQTT 5 event loop.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, ConnectReturnCode, Filter, LastWill, Packet, PubAck, PubAckReason, PubRec, PubRecReason,
    Publish, Subscribe, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, EventLoop, MqttOptions, Request, StateError};
use rumqttc::{NetworkOptions, TlsError, Transport};

use super::error::Cause;
use super::{CONNECT_TIMEOUT, ConnectOptions, Event, MAX_INFLIGHT, MAX_PACKET_BYTES, Message, host_for_url};

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
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        let properties = ConnectProperties {
            session_expiry_interval: (options.session_expiry > 0).then_some(options.session_expiry),
            max_packet_size: Some(MAX_PACKET_BYTES),
            ..ConnectProperties::new()
        };
        mqtt.set_transport(transport)
            .set_network_options(network)
            .set_connection_timeout(CONNECT_TIMEOUT.as_secs())
            .set_clean_start(options.clean)
            .set_keep_alive(Duration::from_secs(options.keepalive.into()))
            .set_outgoing_inflight_upper_limit(MAX_INFLIGHT)
            .set_manual_acks(!options.clean)
            .set_connect_properties(properties);
        if let Some((user, password)) = &options.credentials {
            mqtt.set_credentials(user, password);
        }
        if let Some(will) = &options.will {
            let topic = will.topic.as_str();
            mqtt.set_last_will(LastWill::new(topic, will.payload.clone(), qos(will.qos), will.retain, None));
        }
        let (sender, mut events) = AsyncClient::new(mqtt, MAX_INFLIGHT.into());
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
            Some(rumqttc::v5::Event::Incoming(packet)) => Ok(event(packet)),
            Some(rumqttc::v5::Event::Outgoing(outgoing)) => Ok(Event::Sent(outgoing)),
            None => Err(self.end.take().unwrap_or(Cause::Closed)),
        }
    }

    pub fn has_more(&self) -> bool {
        !self.events.state.events.is_empty()
    }

    pub fn subscribe(&mut self, filters: &[String], level: u8) {
        let filters = filters.iter().map(|filter| Filter::new(filter.clone(), qos(level)));
        self.events.pending.push_back(Request::Subscribe(Subscribe::new_many(filters, None)));
    }

    pub fn acknowledge(&mut self, message: &Message) {
        let id = message.packet_id;
        match message.qos {
            1 if self.acknowledge => self.events.pending.push_back(Request::PubAck(PubAck::new(id, None))),
            2 if self.acknowledge => self.events.pending.push_back(Request::PubRec(PubRec::new(id, None))),
            _ => {}
        }
    }

    pub fn disconnect(&mut self) {
        self.events.pending.push_back(Request::Disconnect);
    }
}

/// See the function of the same name for MQTT 3.1.1.
fn expect_any_pubrel(events: &mut EventLoop) {
    for id in 1..=u16::MAX {
        let mut publish = Publish::new("-", QoS::ExactlyOnce, Bytes::new(), None);
        publish.pkid = id;
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
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.pkid,
            properties: publish.properties.map(Box::new),
        }),
        Packet::PubRel(pubrel) => Event::Released(pubrel.pkid),
        Packet::SubAck(suback) => {
            Event::Subscribed(suback.pkid, suback.return_codes.iter().map(|code| granted(*code)).collect())
        }
        Packet::PubAck(puback) => Event::Acknowledged(puback.pkid, puback_code(puback.reason)),
        Packet::PubRec(pubrec) => Event::Received(pubrec.pkid, pubrec_code(pubrec.reason)),
        Packet::PubComp(pubcomp) => Event::Completed(pubcomp.pkid),
        Packet::PingResp(_) => Event::Alive,
        _ => Event::Other,
    }
}

fn granted(code: SubscribeReasonCode) -> u8 {
    match code {
        SubscribeReasonCode::Success(qos) => qos as u8,
        SubscribeReasonCode::Failure | SubscribeReasonCode::Unspecified => 0x80,
        SubscribeReasonCode::ImplementationSpecific => 0x83,
        SubscribeReasonCode::NotAuthorized => 0x87,
        SubscribeReasonCode::TopicFilterInvalid => 0x8F,
        SubscribeReasonCode::PkidInUse => 0x91,
        SubscribeReasonCode::QuotaExceeded => 0x97,
        SubscribeReasonCode::SharedSubscriptionsNotSupported => 0x9E,
        SubscribeReasonCode::SubscriptionIdNotSupported => 0xA1,
        SubscribeReasonCode::WildcardSubscriptionsNotSupported => 0xA2,
    }
}

fn puback_code(reason: PubAckReason) -> u8 {
    match reason {
        PubAckReason::Success => 0,
        PubAckReason::NoMatchingSubscribers => 0x10,
        PubAckReason::UnspecifiedError => 0x80,
        PubAckReason::ImplementationSpecificError => 0x83,
        PubAckReason::NotAuthorized => 0x87,
        PubAckReason::TopicNameInvalid => 0x90,
        PubAckReason::PacketIdentifierInUse => 0x91,
        PubAckReason::QuotaExceeded => 0x97,
        PubAckReason::PayloadFormatInvalid => 0x99,
    }
}

fn pubrec_code(reason: PubRecReason) -> u8 {
    match reason {
        PubRecReason::Success => 0,
        PubRecReason::NoMatchingSubscribers => 0x10,
        PubRecReason::UnspecifiedError => 0x80,
        PubRecReason::ImplementationSpecificError => 0x83,
        PubRecReason::NotAuthorized => 0x87,
        PubRecReason::TopicNameInvalid => 0x90,
        PubRecReason::PacketIdentifierInUse => 0x91,
        PubRecReason::QuotaExceeded => 0x97,
        PubRecReason::PayloadFormatInvalid => 0x99,
    }
}

fn connack_code(code: ConnectReturnCode) -> u8 {
    match code {
        ConnectReturnCode::Success => 0,
        ConnectReturnCode::RefusedProtocolVersion => 1,
        ConnectReturnCode::BadClientId => 2,
        ConnectReturnCode::ServiceUnavailable => 3,
        ConnectReturnCode::UnspecifiedError => 128,
        ConnectReturnCode::MalformedPacket => 129,
        ConnectReturnCode::ProtocolError => 130,
        ConnectReturnCode::ImplementationSpecificError => 131,
        ConnectReturnCode::UnsupportedProtocolVersion => 132,
        ConnectReturnCode::ClientIdentifierNotValid => 133,
        ConnectReturnCode::BadUserNamePassword => 134,
        ConnectReturnCode::NotAuthorized => 135,
        ConnectReturnCode::ServerUnavailable => 136,
        ConnectReturnCode::ServerBusy => 137,
        ConnectReturnCode::Banned => 138,
        ConnectReturnCode::BadAuthenticationMethod => 140,
        ConnectReturnCode::TopicNameInvalid => 144,
        ConnectReturnCode::PacketTooLarge => 149,
        ConnectReturnCode::QuotaExceeded => 151,
        ConnectReturnCode::PayloadFormatInvalid => 153,
        ConnectReturnCode::RetainNotSupported => 154,
        ConnectReturnCode::QoSNotSupported => 155,
        ConnectReturnCode::UseAnotherServer => 156,
        ConnectReturnCode::ServerMoved => 157,
        ConnectReturnCode::ConnectionRateExceeded => 159,
    }
}

fn cause(error: ConnectionError) -> Cause {
    match error {
        ConnectionError::ConnectionRefused(code) => Cause::Refused(connack_code(code)),
        ConnectionError::Io(error) | ConnectionError::Tls(TlsError::Io(error)) => Cause::Io(error),
        ConnectionError::MqttState(StateError::Io(error)) => Cause::Io(error),
        ConnectionError::MqttState(StateError::ConnectionAborted) => Cause::Closed,
        ConnectionError::MqttState(StateError::AwaitPingResp) | ConnectionError::Timeout(_) => Cause::Timeout,
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let detail = reason_string.map(|text| format!(": {text}")).unwrap_or_default();
            Cause::Other(format!("the broker disconnected ({reason_code:?}{detail})"))
        }
        ConnectionError::MqttState(StateError::Deserialization(_)) | ConnectionError::NotConnAck(_) => {
            Cause::NotMqtt(error.to_string())
        }
        other => Cause::Other(other.to_string()),
    }
}
