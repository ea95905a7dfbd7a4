"""Running a program as a user without rights, from wherever the tests were installed."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from shlex import quote

NOBODY = "65534"
CHECKOUT = Path(__file__).resolve().parents[2]


def as_nobody(folder: Path) -> list[str]:
    """The program and arguments that run a command as nobody. `folder` is scratch space.

    A checkout or a Python below a home directory that others may not enter is shown to nobody at
    its own path, through directories that they may: in a mount namespace of its own, so that no
    permission is changed.
    """
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), CHECKOUT}
    script = [
        *_open_the_way(needed, folder),
        f'exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups -- "$@"',
    ]
    return ["unshare", "--mount", "--propagation=private", "sh", "-euc", "\n".join(script), "sh"]


def _open_the_way(needed: Iterable[Path], folder: Path) -> list[str]:
    """Shell commands that put what is needed within reach of other users."""
    doors: set[Path] = set()
    behind: list[Path] = []
    for path in needed:
        closed = [part for part in (*reversed(path.parents), path) if not _is_open(part)]
        if closed:
            doors.add(closed[0])
            behind += _entries(path) if closed[-1] == path else [path]
    doors = {door for door in doors if not doors.intersection(door.parents)}
    kept = {path: folder / str(index) for index, path in enumerate(sorted(behind))}
    return [
        *(_bind(path, keep) for path, keep in kept.items()),
        *(f"mount -t tmpfs -o mode=755 tmpfs {quote(str(door))}" for door in sorted(doors)),
        *(_bind(keep, path) for path, keep in kept.items()),
    ]


def _is_open(path: Path) -> bool:
    """Whether everybody may enter a directory."""
    return bool(path.stat().st_mode & stat.S_IXOTH)


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.is_symlink()]


def _bind(source: Path, target: Path) -> str:
    old, new = quote(str(source)), quote(str(target))
    return (
        f"if [ -d {old} ]; then mkdir -p {new}; "
        f"else mkdir -p {quote(str(target.parent))}; touch {new}; fi; mount --bind {old} {new}"
    )
