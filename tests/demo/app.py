"""Applications of the demo: one that connects again and again, one that is connected to.

    python -S -E app.py NAME ADDRESS PORT PAUSE TIMEOUT
    python -S -E app.py PORT

The first calls itself NAME, as a process may (PR_SET_NAME).
"""

from __future__ import annotations

import ctypes
import socket
import sys
import time

PR_SET_NAME = 15


def serve(port: int) -> None:
    with socket.create_server(("", port), backlog=128) as server:
        while True:
            server.accept()[0].close()


def main() -> None:
    if len(sys.argv) == 2:
        serve(int(sys.argv[1]))
    name, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    pause, timeout = float(sys.argv[4]), float(sys.argv[5])
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
    while True:
        with socket.socket() as made:
            made.settimeout(timeout)
            made.connect_ex((address, port))
        time.sleep(pause)


if __name__ == "__main__":
    main()
