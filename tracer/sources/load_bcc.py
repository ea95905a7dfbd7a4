"""Finds BCC's Python module, and loads programs with it. The only importer of bcc.

BCC comes from the distribution, for the system's Python, so it is looked for outside this
interpreter's own path too; it is plain Python over ctypes and runs anywhere.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import importlib.util
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tracer import stderr
from tracer.errors import NoSource, NotPermitted
from tracer.host.rights import CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, has_capability
from tracer.sources import program

_BCC_PLACES: Final = (
    "/usr/lib/python3/dist-packages",
    "/usr/lib/python3*/site-packages",
    "/usr/lib64/python3*/site-packages",
    "/usr/local/lib/python3*/dist-packages",
    "/usr/local/lib/python3*/site-packages",
)

compiling: Final = threading.Lock()
"""Held by whoever compiles. At exit LLVM's data goes before the threads do: one that still compiles
would crash the process. So its end waits for the compiler, and from then on nobody begins.
"""
atexit.register(compiling.acquire)


def require_rights() -> None:
    """Asks before the compiler is loaded, which takes longer than to be refused.

    Raises NotPermitted.
    """
    if has_capability(CAP_SYS_ADMIN) or (has_capability(CAP_BPF) and has_capability(CAP_PERFMON)):
        return
    raise NotPermitted(
        "this user may not load BPF programs",
        hint="run as root (sudo), or with CAP_BPF and CAP_PERFMON",
    )


def compile_program(module: Any, main: str, macros: Mapping[str, int | None], hint: str) -> Any:
    """Compiles one of our programs and makes its maps: bcc's object, which holds them.

    Raises NotPermitted where the kernel refuses, NoSource with `hint` where something else fails.
    """
    folder = program.source_folder()
    headers = str(folder / "headers")
    if os.environ.get("BCC_KERNEL_SOURCE") != headers:
        os.environ["BCC_KERNEL_SOURCE"] = headers
    flags = [f"-I{folder}", *program.define(macros)]
    messages: list[str] = []
    try:
        with compiling, stderr.captured() as messages:
            return module.BPF(text=program.source_text(folder, main).encode(), cflags=flags)
    except Exception as error:  # noqa: BLE001  bcc raises bare Exception
        errors = [line for line in messages if "error:" in line]
        detail = "; ".join(errors[:3] or messages[-3:]) or str(error)
        number = ctypes.get_errno()
        if number in (errno.EPERM, errno.EACCES) or "super-user" in str(error):
            raise NotPermitted(
                f"the kernel does not let this user load BPF programs: {detail}",
                hint="run as root (sudo), or with CAP_BPF and CAP_PERFMON",
            ) from None
        raise NoSource(f"the BPF program cannot be loaded: {error}: {detail}", hint=hint) from None


def try_raw_tracepoint(bpf: Any, name: str, function: str) -> str | None:
    """Attaches a function to a tracepoint in its raw form; what went wrong, or None."""
    messages: list[str] = []
    try:
        with stderr.captured() as messages:
            bpf.attach_raw_tracepoint(tp=name.encode(), fn_name=function.encode())
    except Exception as error:  # noqa: BLE001  bcc raises bare Exception
        return "; ".join([str(error), *messages[-3:]])
    return None


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
