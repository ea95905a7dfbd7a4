"""Opens TCP connections and tells how each went: the application whose connects get stuck.

Runs by itself (python -S -E connect.py ADDRESS PORT), so it imports nothing but the quickest of
the standard library. Prints one JSON line per step:

    {"step": "ready"}                                 --wait: a line on stdin starts it
    {"step": "opened", "index": 0, "port": 40112, "time": 1767225600.1}     not if --blocking
    {"step": "result", "index": 0, "result": "ECONNREFUSED", "time": 1767225603.2}

A result is "established", the error's name, "gave up" (--timeout) or "closed" (--hold: a line on
stdin, or its end, closes what is still open).
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import selectors
import socket
import time

STDIN = 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--blocking", action="store_true")
    parser.add_argument("--timeout", type=float)
    parser.add_argument("--source-port", type=int)
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--hold", action="store_true")
    options = parser.parse_args()

    if options.wait:
        tell("ready")
        read_line()
    sockets = [make_socket(options) for _ in range(options.count)]
    target = (options.address, options.port)
    if options.blocking:
        connect_blocking(sockets, target, hold=options.hold)
    else:
        connect_all(sockets, target, timeout=options.timeout, hold=options.hold)


def make_socket(options: argparse.Namespace) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(options.blocking)
    if options.source_port:
        made.bind(("", options.source_port))
    return made


def connect_blocking(sockets: list[socket.socket], target: tuple[str, int], *, hold: bool) -> None:
    for index, sock in enumerate(sockets):
        tell_result(index, sock.connect_ex(target))
    if hold:
        read_line()


def connect_all(
    sockets: list[socket.socket], target: tuple[str, int], *, timeout: float | None, hold: bool
) -> None:
    selector = selectors.DefaultSelector()
    if hold:
        selector.register(STDIN, selectors.EVENT_READ)
    pending: set[int] = set()
    for index, sock in enumerate(sockets):
        error = sock.connect_ex(target)
        tell("opened", index=index, port=sock.getsockname()[1])
        if error == errno.EINPROGRESS:
            pending.add(index)
            selector.register(sock, selectors.EVENT_WRITE, index)
        else:
            tell_result(index, error)

    deadline = time.monotonic() + timeout if timeout is not None else None
    while pending or hold:
        ready = selector.select(None if deadline is None else max(0, deadline - time.monotonic()))
        if any(key.fd == STDIN for key, _ in ready):
            read_line()
            finish(sockets, pending, "closed")
            return
        if deadline is not None and time.monotonic() >= deadline:
            finish(sockets, pending, "gave up")
            deadline = None
        for key, _ in ready:
            if key.data in pending:
                pending.remove(key.data)
                selector.unregister(key.fileobj)
                sock = sockets[key.data]
                tell_result(key.data, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def finish(sockets: list[socket.socket], pending: set[int], result: str) -> None:
    for index in sorted(pending):
        sockets[index].close()
        tell("result", index=index, result=result)
    pending.clear()


def tell_result(index: int, error: int) -> None:
    name = errno.errorcode[error] if error else "established"
    tell("result", index=index, result=name)


def tell(step: str, **details: object) -> None:
    print(json.dumps({"step": step, **details, "time": time.time()}), flush=True)


def read_line() -> None:
    while os.read(STDIN, 1) not in {b"", b"\n"}:
        pass


if __name__ == "__main__":
    main()
