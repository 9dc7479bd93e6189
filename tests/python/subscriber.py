"""Subscribes as the paho-mqtt tutorials do, and prints each message as a line of JSON.

usage: subscriber.py PORT TOPIC [--qos N] [--keep CLIENT_ID] [--v5] [--user NAME PASSWORD] [--count N]
"""

import argparse
import json

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

parser = argparse.ArgumentParser()
parser.add_argument("port", type=int)
parser.add_argument("topic")
parser.add_argument("--qos", type=int, default=1)
parser.add_argument("--keep", metavar="CLIENT_ID")
parser.add_argument("--v5", action="store_true")
parser.add_argument("--count", type=int, default=0)
parser.add_argument("--user", nargs=2)
args = parser.parse_args()
received = 0


def on_connect(client, userdata, flags, reason_code, properties):
    print(f"Connected with result code {reason_code}, session present {flags.session_present}")
    if reason_code.is_failure:
        client.disconnect()
        return
    client.subscribe(args.topic, qos=args.qos)


def on_subscribe(client, userdata, mid, reason_code_list, properties):
    print(f"Subscribed {reason_code_list[0]}")


def on_message(client, userdata, msg):
    global received
    properties = msg.properties.json() if args.v5 else {}
    print("message " + json.dumps({"topic": msg.topic, "payload": msg.payload.decode("utf-8", "replace"),
                                   "qos": msg.qos, "retain": bool(msg.retain), "properties": properties}))
    received += 1
    if received == args.count:
        client.disconnect()


if args.v5:
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=args.keep or "", protocol=mqtt.MQTTv5)
elif args.keep:
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=args.keep, clean_session=False)
else:
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
if args.user:
    client.username_pw_set(*args.user)
client.on_connect = on_connect
client.on_subscribe = on_subscribe
client.on_message = on_message
if args.v5:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600 if args.keep else 0
    client.connect("127.0.0.1", args.port, 60, clean_start=not args.keep, properties=properties)
else:
    client.connect("127.0.0.1", args.port, 60)
client.loop_forever()
