"""Opens TCP connections and keeps them open in a background process. Each line of the input has a
source address or `-`, a target and a port. The argument says for how many seconds the connections
stay open. For each connection the program prints a line with its own address and port, or `-` if it
could not be opened; then it prints the number of the background process. It is a separate program
for places other than shipped images.
"""

import os
import socket
import sys
import time

CONNECT_SECONDS = 5
held = []
for line in sys.stdin:
    source, target, port = line.split()
    try:
        own = None if source == "-" else (source, 0)
        held.append(socket.create_connection((target, int(port)), CONNECT_SECONDS, own))
        print(*held[-1].getsockname()[:2])
    except OSError:
        print("-")
sys.stdout.flush()
if child := os.fork():
    print("pid", child)
else:
    # The caller waits until all copies of the output are closed, so the child closes its own.
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    time.sleep(float(sys.argv[1]))
