"""An Arduino-like board on a serial port, with pyserial: counts, and answers commands.

usage: board.py DEVICE      lines on standard input are sent as they are; what comes in is printed.
"""

import sys
import threading

import serial

ser = serial.Serial(sys.argv[1], 9600)
print("open", ser.name, flush=True)


def receive():
    while True:
        line = ser.readline()
        print("got", line.decode().strip(), flush=True)
        if line.strip() == b"LED 1":
            ser.write(b"led is on\r\n")


threading.Thread(target=receive, daemon=True).start()
for line in sys.stdin:
    ser.write(line.strip().encode() + b"\r\n")
ser.close()
