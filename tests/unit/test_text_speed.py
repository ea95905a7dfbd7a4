"""A million lines: bounded time, bounded memory. Another process is measured, not this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(180)  # of a machine that is busy with other tests

CHECKOUT = Path(__file__).resolve().parents[2]
LINES = 1_000_000
STUCK_SHARE = 100
CPU_SECONDS = 4
PEAK_MEGABYTES = 150

# VmHWM belongs to the program; ru_maxrss would count the memory of the process it was forked from.
READ = """
import json, resource, sys
from tracer.sources.text.lines import file_lines
from tracer.sources.text.recognise import read

path = sys.argv[1]
parsed = read(file_lines(path), path, states={"SYN_SENT"})
given = sum(1 for row in parsed)
with open("/proc/self/status") as status:
    peak_kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "given": given,
    "lines": parsed.lines,
    "problems": parsed.problem_count,
    "cpu_seconds": used.ru_utime + used.ru_stime,
    "peak_megabytes": peak_kilobytes / 1024,
}))
"""


def measured(path: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def table() -> Iterator[str]:
    """A table of which one row in STUCK_SHARE is stuck."""
    yield (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  "
        "timeout inode\n"
    )
    for index in range(LINES - 1):
        state = "01" if index % STUCK_SHARE else "02"
        yield (
            f"{index:4d}: 0200000A:{index % 64512 + 1024:04X} {index:08X}:01BB {state} "
            f"00000001:00000000 01:00000032 00000003  1000        0 {index + 1} 2 "
            "00000000b5ea3cf8 800 0 0 1 7\n"
        )


def sockets() -> Iterator[str]:
    yield "State    Recv-Q Send-Q  Local Address:Port  Peer Address:PortProcess\n"
    for index in range(LINES - 1):
        state = "ESTAB" if index % STUCK_SHARE else "SYN-SENT"
        yield (
            f"{state:8s} 0      1      10.0.0.2:{index % 64512 + 1024} "
            f'10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}:443 users:(("a b",pid=7,'
            f"fd=3)) timer:(on,1.200ms,3) ino:{index + 1} sk:1 cgroup:/ <->\n"
        )


@pytest.mark.parametrize(
    ("text", "cpu_seconds"),
    # Columns of ss are told by their shape: the same order, not the same bound.
    [(table, CPU_SECONDS), (sockets, 2 * CPU_SECONDS)],
    ids=["/proc/net/tcp", "ss"],
)
def test_a_million_lines_are_read_in_bounded_time_and_memory(
    text: Callable[[], Iterator[str]],
    cpu_seconds: float,
    tmp_path: Path,
) -> None:
    path = tmp_path / "million.txt"
    with path.open("w") as file:
        file.writelines(text())
    result = measured(path)
    assert (result["lines"], result["problems"]) == (LINES, 0)
    assert result["given"] == LINES // STUCK_SHARE
    assert result["cpu_seconds"] < cpu_seconds
    assert result["peak_megabytes"] < PEAK_MEGABYTES
