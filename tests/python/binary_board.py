"""A board with a binary protocol, with pyserial: length (two bytes, big-endian), then the frame. Echoes each frame reversed.

usage: binary_board.py DEVICE
"""

import sys

import serial

with serial.Serial(sys.argv[1], 115200, timeout=20) as ser:
    print("open", ser.name, flush=True)
    everything = bytes(range(256))
    ser.write(len(everything).to_bytes(2, "big") + everything)
    length = int.from_bytes(ser.read(2), "big")
    frame = ser.read(length)
    assert len(frame) == length, (length, frame)
    print("frame", frame.hex(), flush=True)
    ser.write(length.to_bytes(2, "big") + frame[::-1])
    ser.flush()
    sys.stdin.read()
