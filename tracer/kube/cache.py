"""Keeps the names on disk, for a tracer that starts while the API server is out of reach.

One file per node. It holds what names follow from, as the API's own JSON with everything else left
out, so that the readers of the API's answers read it too, and take nothing in it for granted: no
specification but ports, no environment, of annotations only the one that tells a pod's network
interface. Names and labels of a cluster are not for everyone all the same: mode 0600. Policies are
not kept: a connection would be judged by what has long changed.

The file is gzipped JSON lines. The first tells version, node and time; each further one holds some
objects of one resource, and `all` of its last one is true. A resource that has no such line is not
known, or had no room.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path
from typing import BinaryIO, Final

from tracer.kube.names import Names, Record, Resource
from tracer.kube.pod import PodInfo, mapping, pod_document, read_pod, text
from tracer.kube.records import (
    NodeRecord,
    ServiceRecord,
    SliceRecord,
    node_document,
    read_node,
    read_service,
    read_slice,
    service_document,
    slice_document,
)

VERSION: Final = 2
"""Of the file's format: grows when releases could misread each other's. 2 has ports of pods."""
MAX_BYTES: Final = 32 << 20
"""Of JSON; gzipped it takes a tenth. 50,000 endpoints are 8 MB."""

_OBJECTS_PER_LINE: Final = 200
_STALE_TEMPORARY_SECONDS: Final = 3_600
_READERS: Final[Mapping[Resource, Callable[[object], Record | None]]] = {
    # In the order of their worth: what there is no room for is dropped from the end.
    Resource.PODS: read_pod,
    Resource.NODES: read_node,
    Resource.SERVICES: read_service,
    Resource.ENDPOINT_SLICES: read_slice,
}


@dataclass(frozen=True, slots=True)
class Cached:
    """What the disk told. `saved_wall_ns` is when the names were last known to be true."""

    saved_wall_ns: int
    records: Mapping[Resource, tuple[Record, ...]]

    def fill(self, names: Names) -> None:
        """Puts each resource in place that `names` has not been told of yet."""
        for resource, records in self.records.items():
            if not names.listed(resource):
                names.replace(resource, records, cached=True)


def cache_file(cache_dir: Path, node_name: str) -> Path:
    """Where the names of a node are kept: readable, and one for each node whatever it is called."""
    readable = re.sub(r"[^A-Za-z0-9.-]", "_", node_name)[:80]
    unique = hashlib.sha256(node_name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return cache_dir / f"names-{readable}-{unique}.json.gz"


def load(cache_dir: Path, node_name: str) -> Cached | None:
    """What save() kept of this node; None where there is nothing, or nothing that can be trusted.

    That is only a regular file of this user that nobody else may write, whole, of this node and of
    this format. Any other is left alone. Never raises.
    """
    try:
        with open(cache_file(cache_dir, node_name), "rb", opener=_open_own) as file:
            return _parse(_decompressed(file), node_name)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError):
        return None


def save(cache_dir: Path, node_name: str, names: Names, wall_ns: int | None = None) -> None:
    """Writes the names to disk, whole or not at all.

    `wall_ns` is when they were last known to be true: now, where it is None. The folder is made if
    it is missing. Raises OSError where that cannot be done; what was saved before is then still
    there.
    """
    saved_wall_ns = time.time_ns() if wall_ns is None else wall_ns
    cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = cache_file(cache_dir, node_name)
    _remove_left_over(target)
    temporary = target.with_name(f"{target.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    try:
        _write(temporary, _sections(node_name, saved_wall_ns, names))
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(cache_dir)


def _write(path: Path, sections: Iterator[bytes]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        # Level 1 takes a tenth of a second for the largest clusters; level 9 saves little more.
        with GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as packed:
            for section in sections:
                packed.write(section)
        file.flush()
        os.fsync(file.fileno())


def _sections(node_name: str, saved_wall_ns: int, names: Names) -> Iterator[bytes]:
    """The file's lines, for as many resources as there is room for."""
    header = _line({"version": VERSION, "node": node_name, "saved_wall_ns": saved_wall_ns})
    yield header
    room = MAX_BYTES - len(header)
    for resource in _READERS:
        if not names.complete(resource):
            continue
        for line in _lines(resource, names.records(resource)):
            room -= len(line)
            if room < 0:
                return
            yield line


def _lines(resource: Resource, records: list[Record]) -> Iterator[bytes]:
    for start in range(0, max(1, len(records)), _OBJECTS_PER_LINE):
        end = start + _OBJECTS_PER_LINE
        yield _line(
            {
                "resource": resource,
                "all": end >= len(records),
                "items": [_document(record) for record in records[start:end]],
            }
        )


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _document(record: Record) -> dict[str, object]:
    if isinstance(record, PodInfo):
        return pod_document(record)
    if isinstance(record, ServiceRecord):
        return service_document(record)
    if isinstance(record, NodeRecord):
        return node_document(record)
    if isinstance(record, SliceRecord):
        return slice_document(record)
    raise TypeError(f"{type(record).__name__} is not kept on disk")


def _sync_folder(folder: Path) -> None:
    """Makes the new name last, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_left_over(target: Path) -> None:
    """Temporary files of tracers that were killed while they saved."""
    oldest = time.time() - _STALE_TEMPORARY_SECONDS
    for one in target.parent.glob(f"{target.name}.*.tmp"):
        with contextlib.suppress(OSError):
            if one.lstat().st_mtime < oldest:
                one.unlink()


def _open_own(path: str, flags: int) -> int:
    """A descriptor of a file that nobody but this user can have written. Raises OSError."""
    # Without O_NONBLOCK a named pipe in its place would be waited for.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if (
        not stat.S_ISREG(status.st_mode)
        or status.st_uid != os.geteuid()
        or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "not of this user alone", path)
    return descriptor


def _decompressed(file: BinaryIO) -> Iterator[bytes]:
    """Its lines. Raises OSError, EOFError, zlib.error or ValueError where it is no such file.

    Reads what save() can have written and no byte more, whatever the file would unpack to.
    """
    room = MAX_BYTES
    with GzipFile(fileobj=file, mode="rb") as packed:
        while line := packed.readline(room + 1):
            room -= len(line)
            if room < 0 or not line.endswith(b"\n"):
                raise ValueError("longer than it can be, or cut off")
            yield line


def _parse(lines: Iterator[bytes], node_name: str) -> Cached:
    """Raises ValueError where it is not this version's, or not this node's."""
    header = mapping(json.loads(next(lines, b"null")))
    saved_wall_ns = header.get("saved_wall_ns")
    if header.get("version") != VERSION or header.get("node") != node_name:
        raise ValueError("of another version, or another node")
    if type(saved_wall_ns) is not int or saved_wall_ns < 0:
        raise ValueError("saved at no time")
    found: dict[Resource, list[Record]] = {}
    whole: dict[Resource, tuple[Record, ...]] = {}
    for line in lines:
        part = mapping(json.loads(line))
        resource = Resource(text(part.get("resource")) or "")
        records = found.setdefault(resource, [])
        records += _records(resource, part.get("items"))
        if part.get("all") is True:
            whole[resource] = tuple(records)
    return Cached(min(saved_wall_ns, time.time_ns()), whole)  # the clock may have been set back


def _records(resource: Resource, items: object) -> Iterator[Record]:
    """Raises ValueError where an item is none of the resource: save() writes none such."""
    read = _READERS.get(resource)
    if read is None:
        raise ValueError(f"{resource} are not kept on disk")
    for item in items if isinstance(items, list) else [None]:
        record = read(item)
        if record is None:
            raise ValueError(f"none of the {resource}")
        yield record
