"""What the keys do, and what the columns mean."""

from __future__ import annotations

from typing import Final

KEYS: Final[tuple[tuple[str, str, str], ...]] = (
    ("Enter", "detail", "the row in full: why, time line, next steps; Esc goes back"),
    ("/", "filter", "text, pod: ns: dst: tag: cause: age>5s, ! before what it is not"),
    ("g", "group", "pod + destination, destination, pod, workload, attempt"),
    ("s", "sort", "by the next column; S the other way round, o the same once more"),
    ("t", "scope", "VPC/internal, external, all destinations"),
    ("space", "freeze", "the picture stands still, tracing goes on"),
    ("e", "events", "the log of events, and what the trace lacks"),
    ("w", "report", "writes a report into a new directory here"),
    ("r", "record", "starts and stops a recording of every event (JSON lines)"),
    ("y", "copy", "the first command of the row's next steps"),
    ("?", "help", "this page"),
    ("q", "quit", "ends the trace; Ctrl-C too"),
)
"""Key, its word in the footer, what it does."""

TEXT: Final = """\
Arrows, PgUp, PgDn, Home, End move; the mouse's wheel and click do too. Hold Shift to mark text with
the mouse.

After the first five seconds rows stay where they are: new ones come at the end until s, S or o puts
them in order. What changes flashes for a second. What has ended fades and goes after a minute
(--keep keeps it); "12s ago" is when that was.

stuck    attempts whose SYN was sent again, or that are older than --threshold
oldest   age of the oldest of them
SYNs     most SYNs that one of them sent
next     until the kernel sends the next SYN
ended    how attempts ended: est(ablished) ref(used) unr(eachable) t/o timed out abt aborted
         loc(al error) van(ished: its end was not seen)
1 min    how many more are stuck than a minute ago
verdict  where the handshake dies. Sure where there is no mark; ? is likely, ?? is a guess;
         +1 is how many other causes there are in the row
tag      VPC/internal, external, link-local, loopback: by the address alone

A filter is made of words that must all be true: curl finds any name, ns:shop age>5s what it says,
!tag:vpc what is not. An empty filter shows all.
"""
