"""A barcode scanner that connects to a TCP server, as the socket tutorials do.

usage: scanner.py PORT CODE     prints its own port, what comes back, and leaves after the line BYE
"""

import socket
import sys

with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    print("port", sock.getsockname()[1], flush=True)
    sock.sendall(sys.argv[2].encode() + b"\r\n")
    buffer = b""
    while b"BYE\n" not in buffer:
        data = sock.recv(1024)
        if not data:
            break
        print("got", data.decode().strip().replace("\n", "|"), flush=True)
        buffer += data
print("left", flush=True)
