"""BPF programs and descriptors that are held, here and on the whole machine."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import suppress
from pathlib import Path

PROGRAM_ID = re.compile(r"^prog_id:\s*(\d+)", re.MULTILINE)
COMMAND_SECONDS = 15


def own_programs(pid: int | str = "self") -> set[int]:
    """Ids of the BPF programs that a process holds, by default this one."""
    programs: set[int] = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed by now, as iterdir()'s own
            programs.update(map(int, PROGRAM_ID.findall(path.read_text())))
    return programs


def names_of_programs(pid: int) -> set[str]:
    """What the kernel calls the BPF programs that a process holds, and that are loaded."""
    names = _loaded()
    return {names[number] for number in own_programs(pid) if number in names}


def loaded_programs() -> set[int]:
    return set(_loaded())


def _loaded() -> dict[int, str]:
    shown = subprocess.run(
        ["bpftool", "prog", "show", "--json"],
        capture_output=True,
        check=True,
        timeout=COMMAND_SECONDS,
    )
    return {found["id"]: found.get("name", "") for found in json.loads(shown.stdout)}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
