//! The MQTT broker: rumqttd's router inside, our own edge outside.
