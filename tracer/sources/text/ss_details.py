"""What ss prints behind the columns of a socket: processes, timer, owner, TCP's own numbers.

The order is that of inet_show_sock() in misc/ss.c: users, timer, uid, ino, sk, cgroup, then what -i
and -m add. ss prints a process's name (comm) as it is, with quotes, parentheses, newlines in it.
The kernel bounds it to 15 bytes (TASK_COMM_LEN): too few to forge a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, TypedDict

from tracer.sources.text.connection import TIMERS
from tracer.sources.text.reader import is_number

_USERS: Final = "users:(("
_NEW_USER: Final = '("'
_END_OF_NAME: Final = '",pid='
_USER_END: Final = re.compile(r'",pid=([0-9]{1,10}),(?:tid=[0-9]{1,10},)?fd=[0-9]{1,10}\)')
_USERS_END: Final = re.compile(r"\)(?=\s|$)")
_LONGEST_NAME: Final = 15
"""Bytes, and so characters at most: TASK_COMM_LEN, which counts a NUL too, is 16."""

_TIMER: Final = re.compile(r"timer:\((\w{1,20}),([^,()]{0,40}),([0-9]{1,10})\)")
# print_ms_timer() in misc/ss.c writes 1.2 s as "1.200ms", in later versions "1.200sec", 0 as "".
_DURATION: Final = re.compile(
    r"(?:(?P<minutes>[0-9]{1,7})min)?"
    r"(?:(?P<seconds>[0-9]{1,7}(?:\.[0-9]{1,6})?)sec"
    r"|(?P<whole>[0-9]{1,7}\.[0-9]{1,6})ms"
    r"|(?P<millis>[0-9]{1,7})ms)?"
)
_TOTAL_RETRANSMISSIONS: Final = re.compile(r"retrans:[0-9]{1,10}/([0-9]{1,10})")


class Details(TypedDict, total=False):
    """What may stand behind a row's columns; the members are those of Connection."""

    retransmissions: int
    next_retry_seconds: float
    timer: str
    uid: int
    inode: int | None
    pid: int
    process: str
    processes: int


def read_details(rest: str, state: str) -> tuple[Details, Sequence[str]]:
    """What stands behind the columns of a row, and what is damaged of it."""
    found = Details()
    damage: list[str] = []
    text = rest.lstrip()
    if text.startswith("users:"):
        users = _parse_users(text)
        if users is None:
            # What follows cannot be told from what a process calls itself.
            return found, ["the list of processes is damaged"]
        found["pid"], found["process"], found["processes"] = users.pid, users.name, users.number
        text = text[users.end :]
    seen: set[str] = set()
    total: re.Match[str] | None = None
    for token in text.split():
        key = token.partition(":")[0]
        # A cgroup's path is others' text, and only -i prints something after it.
        if key in seen or ("cgroup" in seen and key != "retrans"):
            continue
        seen.add(key)
        if key == "timer":
            timer = _read_timer(token)
            if timer is None:
                damage.append("the timer is damaged")
            else:
                found.update(timer)
        elif key == "uid" and is_number(token[4:]):
            found["uid"] = int(token[4:])
        elif key == "ino" and is_number(token[4:]):
            found["inode"] = int(token[4:]) or None
        elif key == "retrans":
            total = _TOTAL_RETRANSMISSIONS.fullmatch(token)
    # tcpi_total_retrans: of a socket that is not connected yet, it counts SYNs alone.
    if total is not None and state == "SYN_SENT":
        found.setdefault("retransmissions", int(total[1]))
    # sock_details_print() leaves out uid 0; sockets in TIME_WAIT have no owner.
    if found.get("inode") is not None and "uid" not in seen:
        found["uid"] = 0
    return found, damage


def name_goes_on(row: str, line: str, *, is_row: bool) -> bool:
    """Whether the last name that `row` has begun goes on, after a newline, in the next `line`.

    `is_row` says that the line has the shape of a row: only its closing quote, near its beginning,
    shows that it is a piece of a name all the same.
    """
    begin = row.rfind(_NEW_USER) + len(_NEW_USER)
    if _USERS not in row or row.find(_END_OF_NAME, begin) >= 0:
        return False
    end = line.find(_END_OF_NAME)
    if len(row) - begin + (len(line) if end < 0 else end) > _LONGEST_NAME:
        return False
    # A row of its own has a list of its own.
    return not is_row or (end >= 0 and _USERS not in line[:end])


def _read_timer(token: str) -> Details | None:
    """Reads "timer:(on,1.2sec,3)"; None where it is no such thing.

    The third member counts retransmissions for the timer "on" alone, probes for the others
    (inet_diag_msg_common_fill and tcp_diag in the kernel).
    """
    found = _TIMER.fullmatch(token)
    seconds = _seconds(found[2]) if found else None
    if found is None or seconds is None:
        return None
    name = found[1] if found[1] in TIMERS else TIMERS[-1]
    if name != "on":
        return {"timer": name}
    return {"timer": name, "next_retry_seconds": seconds, "retransmissions": int(found[3])}


def _seconds(text: str) -> float | None:
    """A duration of ss: "1.2sec", "1.200ms" (the same), "200ms", "1min30sec", ""."""
    found = _DURATION.fullmatch(text)
    if found is None:
        return None
    return (
        60 * int(found["minutes"] or 0)
        + float(found["seconds"] or 0)
        + float(found["whole"] or 0)
        + int(found["millis"] or 0) / 1000
    )


class _Users(NamedTuple):
    """The processes of a socket: the first one, how many, and where the list ends."""

    pid: int
    name: str
    number: int
    end: int


def _parse_users(text: str) -> _Users | None:
    r"""Reads users:(("NAME",pid=N,fd=N),("NAME",pid=N,fd=N)); None where it is broken.

    NAME is anything of at most 15 bytes, such as `",pid=1,fd=2`. The list must reach up to the
    last piece of text that looks like an entry's end, for no name may end it early; of the ways to
    cut it into entries that remain, the one with the shortest names is taken.
    """
    if not text.startswith(_USERS + '"'):
        return None
    first = len(_USERS)
    ends = list(_USER_END.finditer(text, first))
    if not ends or not _USERS_END.match(text, ends[-1].end()):
        return None
    # From the last entry to the first: how many entries follow each end, None where it is no end.
    follow: list[int | None] = [None] * len(ends)
    follow[-1] = 0
    for index in range(len(ends) - 2, -1, -1):
        after = ends[index].end()
        if text.startswith(',("', after):
            chosen = _end_of_name(ends, follow, index + 1, after + 3)
            follow[index] = None if chosen is None else 1 + (follow[chosen] or 0)
    chosen = _end_of_name(ends, follow, 0, first + 1)
    if chosen is None:
        return None
    found = ends[chosen]
    return _Users(
        pid=int(found[1]),
        name=text[first + 1 : found.start()],
        number=1 + (follow[chosen] or 0),
        end=ends[-1].end() + 1,
    )


def _end_of_name(
    ends: list[re.Match[str]], follow: list[int | None], index: int, begin: int
) -> int | None:
    """The first end from `index` on at which the name that begins at `begin` may end."""
    while index < len(ends) and ends[index].start() - begin <= _LONGEST_NAME:
        if ends[index].start() >= begin and follow[index] is not None:
            return index
        index += 1
    return None
