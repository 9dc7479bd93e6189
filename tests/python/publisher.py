"""Publishes as the paho-mqtt tutorials do, one message for each PAYLOAD.

usage: publisher.py PORT TOPIC [--qos N] [--retain] [--v5] [--user NAME PASSWORD] PAYLOAD...
"""

import argparse

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

parser = argparse.ArgumentParser()
parser.add_argument("port", type=int)
parser.add_argument("topic")
parser.add_argument("payload", nargs="+")
parser.add_argument("--qos", type=int, default=0)
parser.add_argument("--retain", action="store_true")
parser.add_argument("--v5", action="store_true")
parser.add_argument("--user", nargs=2)
args = parser.parse_args()

properties = None
if args.v5:
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "text/plain"
    properties.ResponseTopic = "answers/here"
    properties.CorrelationData = b"\x00\xff"
    properties.UserProperty = [("room", "office"), ("room", "hall")]

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5 if args.v5 else mqtt.MQTTv311)
if args.user:
    client.username_pw_set(*args.user)
client.connect("127.0.0.1", args.port)
client.loop_start()
for payload in args.payload:
    info = client.publish(args.topic, payload, qos=args.qos, retain=args.retain, properties=properties)
    info.wait_for_publish(timeout=20)
    assert info.is_published(), payload
client.disconnect()
client.loop_stop()
print("published")
