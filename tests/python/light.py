"""A light that speaks lines over TCP: takes ON and OFF and answers with its state.

usage: light.py [PORT]      prints the port it listens on; commands on standard input:
say TEXT    send a line         half TEXT   send it without its end
close       end the connection  reset       abort it (RST)
stop        close the listener, too         start       listen again on the same port
"""

import os
import selectors
import socket
import struct
import sys

ports = selectors.DefaultSelector()


class Light:
    def __init__(self, port):
        self.port = port
        self.peer = None
        self.listener = None
        self.buffer = b""
        self.start("")

    def start(self, _):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        ports.register(self.listener, selectors.EVENT_READ, self.accept)
        print("listening on", self.port, flush=True)

    def accept(self):
        self.peer, address = self.listener.accept()
        self.buffer = b""
        ports.register(self.peer, selectors.EVENT_READ, self.receive)
        print("connected from", address[0], flush=True)

    def receive(self):
        try:
            data = self.peer.recv(1024)
        except OSError as error:
            print("connection over:", error, flush=True)
            data = b""
        if not data:
            print("end of stream", flush=True)
            self.close("")
        self.buffer += data
        while b"\n" in self.buffer:
            line, self.buffer = self.buffer.split(b"\n", 1)
            print("got", line.decode("utf-8", "replace").strip(), flush=True)
            if line.strip() in (b"ON", b"OFF"):
                self.peer.sendall(line + b"\n")

    def say(self, text):
        self.half(text + "\n")

    def half(self, text):
        self.peer.sendall(text.encode())

    def close(self, _):
        if self.peer:
            ports.unregister(self.peer)
            self.peer.close()
            self.peer = None

    def reset(self, _):
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close("")

    def stop(self, _):
        ports.unregister(self.listener)
        self.listener.close()
        self.close("")


def commands():
    global typed
    data = os.read(0, 65536).decode()
    if not data:
        sys.exit()
    *lines, typed = (typed + data).split("\n")
    for command in lines:
        word, _, text = command.partition(" ")
        getattr(light, word)(text)
        print("did", word, flush=True)


typed = ""
light = Light(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
ports.register(0, selectors.EVENT_READ, commands)
while True:
    for key, _ in ports.select():
        key.data()
