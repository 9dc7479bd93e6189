"""Sends messages to itself over TLS, WebSocket or a unix socket, as paho-mqtt's users do.

usage: round_trip.py mqtts|ws|wss|unix PORT_OR_PATH [--ca FILE] [--cert FILE --key FILE] [--v5]
"""

import argparse
import queue
import sys

import paho.mqtt.client as mqtt

parser = argparse.ArgumentParser()
parser.add_argument("scheme", choices=["mqtts", "ws", "wss", "unix"])
parser.add_argument("where")
parser.add_argument("--ca")
parser.add_argument("--cert")
parser.add_argument("--key")
parser.add_argument("--v5", action="store_true")
args = parser.parse_args()
events = queue.Queue()

client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2,
    protocol=mqtt.MQTTv5 if args.v5 else mqtt.MQTTv311,
    transport={"ws": "websockets", "wss": "websockets", "unix": "unix"}.get(args.scheme, "tcp"),
)
if args.ca:
    client.tls_set(ca_certs=args.ca, certfile=args.cert, keyfile=args.key)
client.on_connect = lambda client, userdata, flags, reason, properties: events.put(("connected", str(reason)))
client.on_subscribe = lambda client, userdata, mid, reasons, properties: events.put(("subscribed", str(reasons[0])))
client.on_message = lambda client, userdata, message: events.put((message.qos, message.payload))


def expect(*wanted):
    got = events.get(timeout=20)
    if got != wanted:
        sys.exit(f"expected {wanted!r:.100}, got {got!r:.100}")


if args.scheme == "unix":
    client.connect(args.where)
else:
    client.connect("localhost", int(args.where))
client.loop_start()
expect("connected", "Success")
client.subscribe("round/trip", qos=2)
expect("subscribed", "Granted QoS 2")
for qos in (0, 1, 2):
    for payload in (b"", b"hello", bytes(range(256)) * 1000):
        client.publish("round/trip", payload, qos=qos)
        expect(qos, payload)
client.disconnect()
client.loop_stop()
print("round trip done")
