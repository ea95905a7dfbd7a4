"""Very many connects on loopback, healthy ones at full speed or stuck ones at once.

Runs by itself (python -S -E storm.py healthy|stuck COUNT PORT) in a namespace of its own.

    healthy  listens on PORT, connects COUNT times one after another, prints the seconds it took
    stuck    opens COUNT connects to PORT, prints "opened", closes them at the end of stdin
"""

from __future__ import annotations

import resource
import socket
import struct
import sys
import time

ADDRESS = "127.0.0.1"
# Closing with a reset leaves no TIME_WAIT behind, so that ports do not run out.
RESET = struct.pack("ii", 1, 0)


def healthy(count: int, port: int) -> None:
    """One process on both sides: a listener that falls behind would drop SYNs for real."""
    with socket.create_server((ADDRESS, port)) as server:
        began = time.monotonic()
        for _ in range(count):
            with socket.socket() as client:
                client.connect((ADDRESS, port))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                server.accept()[0].close()
        print(time.monotonic() - began, flush=True)


def stuck(count: int, port: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened = []
    for _ in range(count):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex((ADDRESS, port))
        opened.append(client)
    print("opened", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    {"healthy": healthy, "stuck": stuck}[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
