"""The light switch of the tutorials: asks for the state, switches the light, and waits until it says so.

usage: light_switch.py PORT
"""

import sys

import paho.mqtt.client as mqtt

TOPIC = "smarthome/lights/office"
wanted = ["ON", "OFF", "ON"]


def on_connect(client, userdata, flags, reason_code, properties):
    print("connected:", reason_code)
    client.subscribe(TOPIC + "/state", qos=1)


def on_subscribe(client, userdata, mid, reason_code_list, properties):
    client.publish(TOPIC, wanted[0])


def on_message(client, userdata, msg):
    state = msg.payload.decode()
    print(f"{msg.topic} is {state}")
    assert state == wanted.pop(0), state
    if wanted:
        client.publish(TOPIC, wanted[0])
    else:
        client.disconnect()


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.on_connect = on_connect
client.on_subscribe = on_subscribe
client.on_message = on_message
client.connect("127.0.0.1", int(sys.argv[1]), 60)
client.loop_forever()
print("done")
