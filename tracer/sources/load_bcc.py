"""Finds BCC's Python module. The only importer of bcc.

BCC comes from the distribution, for the system's Python, so it is looked for outside this
interpreter's own path too; it is plain Python over ctypes and runs anywhere.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tracer.errors import NoSource

_BCC_PLACES: Final = (
    "/usr/lib/python3/dist-packages",
    "/usr/lib/python3*/site-packages",
    "/usr/lib64/python3*/site-packages",
    "/usr/local/lib/python3*/dist-packages",
    "/usr/local/lib/python3*/site-packages",
)


def import_bcc() -> Any:
    """BCC's module, from this interpreter's path or the distribution's.

    Raises NoSource where there is none, or where it cannot be loaded.
    """
    loaded = sys.modules.get("bcc")
    if hasattr(loaded, "BPF"):
        return loaded
    candidates: list[Path | None] = [None]
    for place in _BCC_PLACES:
        root, _, pattern = place.partition("*")
        parent = Path(root).parent
        if not pattern:
            candidates.append(Path(place))
        elif parent.is_dir():
            candidates += sorted(parent.glob(place[len(str(parent)) + 1 :]), reverse=True)
    for candidate in candidates:
        module = _import_bcc_from(candidate)
        if module is not None:
            return module
    raise NoSource(
        "bcc, the BPF compiler's Python module, is not installed",
        hint="install the distribution's package (Debian, Ubuntu: python3-bpfcc; "
        "Fedora, RHEL, Amazon Linux: python3-bcc)",
    )


def _import_bcc_from(folder: Path | None) -> Any:
    """The module in this folder alone (None: on the path), None where it is not bcc."""
    if folder is None:
        spec = importlib.util.find_spec("bcc")
    elif (folder / "bcc" / "__init__.py").is_file():
        spec = importlib.util.spec_from_file_location(
            "bcc",
            folder / "bcc" / "__init__.py",
            submodule_search_locations=[str(folder / "bcc")],
        )
    else:
        return None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError, AttributeError) as error:
        del sys.modules["bcc"]
        if folder is None:
            return None
        raise NoSource(f"bcc in {folder} cannot be loaded: {error}") from None
    if hasattr(module, "BPF"):
        return module
    del sys.modules["bcc"]
    return None


@contextlib.contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Keeps what LLVM and libbpf write to stderr: attaching by trial fails noisily."""
    lines: list[str] = []
    sys.stderr.flush()
    saved = os.dup(2)
    memory = os.memfd_create("synsent-stderr", os.MFD_CLOEXEC)
    try:
        os.dup2(memory, 2)
        yield lines
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.lseek(memory, 0, os.SEEK_SET)
        with open(memory, encoding="utf-8", errors="replace") as captured:
            lines += [line.strip() for line in captured if line.strip()]
