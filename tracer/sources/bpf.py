"""The kernel's own account of attempts, through a BPF program loaded by BCC."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from tracer import stderr
from tracer.errors import InputError, NoSource
from tracer.model import NANOSECONDS, Transition
from tracer.sources import btf, program, wire
from tracer.sources.load_bcc import (
    compile_program,
    import_bcc,
    require_rights,
    try_raw_tracepoint,
)

if TYPE_CHECKING:
    from tracer.settings import Limits

_MAX_WANTED_NETNS: Final = 1024
_REQUIRED_TRACEPOINTS: Final = {
    "sock:inet_sock_set_state": "on_set_state",
    "tcp:tcp_retransmit_skb": "on_retransmit",
}
# Entries of the kernel's hash read by one system call; a bucket holds more only by collision.
_READ_ENTRIES: Final = 4096
# The first retransmission is due 1 s after the SYN and brings the source port with it. An attempt
# is reported for its age alone only when that has had time to happen.
_FIRST_RETRANSMISSION_NS: Final = NANOSECONDS
_RETRANSMISSION_GRACE_NS: Final = NANOSECONDS // 4

_RING_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)


class BpfSource:
    """Attached probes, their ring buffer and the table of attempts in SYN_SENT.

    `hooks` names what is attached, `lacking` says what is not, and what that costs. Not for use by
    several threads at once.
    """

    def __init__(
        self,
        *,
        threshold_seconds: float,
        limits: Limits,
        pid: int | None = None,
        netns: frozenset[int] | None = None,
    ) -> None:
        """Compiles, loads and attaches; needs no kernel headers.

        Raises NotPermitted where the kernel refuses BPF to this user, NoSource where something is
        missing, each with what to do about it.
        """
        self.hooks: tuple[str, ...] = ()
        self._lacking: list[str] = []
        self._threshold_ns = int(threshold_seconds * NANOSECONDS)
        self._records: list[bytes] = []
        self._forgotten = 0
        require_rights()
        self._module = import_bcc()
        macros: dict[str, int | None] = {
            "MAX_ATTEMPTS": limits.max_attempts,
            "MAX_WANTED_NETNS": _MAX_WANTED_NETNS,
            "THRESHOLD_NS": self._threshold_ns,
            **program.page_macros(limits.ring_bytes),
            **wire.mirror_macros(),
            **self._member_macros(),
        }
        if pid is not None:
            macros["FILTER_PID"] = pid
        if netns is not None:
            self._require_room_for(netns)
            macros["FILTER_NETNS"] = None
        self._bpf = compile_program(
            self._module, program.TRACE, macros, hint="run with --backend poll"
        )
        self._ring: Any = None
        try:
            self._open()
            if netns is not None:
                self._want(netns)
            self._attach()
        except BaseException:
            self.close()
            raise

    @property
    def lacking(self) -> tuple[str, ...]:
        return tuple(self._lacking)

    # --- start ---------------------------------------------------------------------------------

    @staticmethod
    def _member_macros() -> dict[str, int | None]:
        members = program.REQUIRED_MEMBERS | program.OPTIONAL_MEMBERS
        try:
            found = btf.offsets(members.values())
        except (OSError, InputError) as error:
            raise NoSource(
                f"the kernel's type information is of no use: {error}",
                hint="it needs a kernel built with CONFIG_DEBUG_INFO_BTF; run with --backend poll",
            ) from None
        missing = [path for path in program.REQUIRED_MEMBERS.values() if path not in found]
        if missing:
            raise NoSource(
                f"this kernel has no member {', '.join(missing)}", hint="run with --backend poll"
            )
        return {macro: found[path] for macro, path in members.items() if path in found}

    @staticmethod
    def _require_room_for(netns: frozenset[int]) -> None:
        if len(netns) > _MAX_WANTED_NETNS:
            raise NoSource(
                f"{len(netns)} network namespaces are more than the {_MAX_WANTED_NETNS} that can "
                "be filtered in the kernel",
                hint="trace the whole node instead",
            )

    def _attach(self) -> None:
        """Attaches what is needed, and by trying what some kernels do not have or allow."""
        for name, function in _REQUIRED_TRACEPOINTS.items():
            failure = self._try_tracepoint(name, function)
            if failure is not None:
                raise NoSource(
                    f"cannot attach to tracepoint {name}: {failure}",
                    hint="it needs Linux 4.17 or newer; run with --backend poll",
                )
        hooks = list(_REQUIRED_TRACEPOINTS)
        if self._try_tracepoint("sock:inet_sk_error_report", "on_error_report") is None:
            hooks.append("sock:inet_sk_error_report")
        else:
            self._lacking.append(
                "tracepoint sock:inet_sk_error_report: an ICMP error that arrives during "
                "connect() may look as if the application gave up"
            )
        if self._try_kprobe(b"tcp_connect", b"on_tcp_connect"):
            hooks.insert(0, "tcp_connect")
        else:
            self._lacking.append(
                "kprobe on tcp_connect: the source port is known from the first "
                "retransmission on, not before"
            )
        self.hooks = tuple(hooks)

    def _try_tracepoint(self, name: str, function: str) -> str | None:
        return try_raw_tracepoint(self._bpf, name.partition(":")[2], function)

    def _try_kprobe(self, kernel_function: bytes, function: bytes) -> bool:
        try:
            with stderr.captured():
                self._bpf.attach_kprobe(event=kernel_function, fn_name=function)
        except Exception:  # noqa: BLE001  bcc raises bare Exception
            return False
        return True

    def _want(self, netns: frozenset[int]) -> None:
        table = self._bpf[b"wanted_netns"]
        for inode in netns:
            table[ctypes.c_uint32(inode)] = ctypes.c_uint8(1)

    def _open(self) -> None:
        library = self._module.libbcc.lib
        self._library = library
        self._attempts_fd = self._bpf[b"attempts"].map_fd
        self._counters_fd = self._bpf[b"counters"].map_fd
        cpus = len(self._module.utils.get_possible_cpus())
        self._counters_buffer = ctypes.create_string_buffer(wire.COUNTERS_PER_CPU.size * cpus)
        self._keys_buffer = (ctypes.c_uint64 * _READ_ENTRIES)()
        self._values_buffer = ctypes.create_string_buffer(wire.ATTEMPT.size * _READ_ENTRIES)
        records = self._records

        def take(_context: int, data: int, size: int) -> int:
            records.append(ctypes.string_at(data, size))
            return 0

        self._callback = _RING_CALLBACK(take)  # kept: the library holds only a pointer
        self._ring = library.bpf_new_ringbuf(self._bpf[b"events"].map_fd, self._callback, None)
        if not self._ring:
            raise NoSource(
                "the kernel has no BPF ring buffer",
                hint="it needs Linux 5.8 or newer; run with --backend poll",
            )

    # --- reading -------------------------------------------------------------------------------

    def read(self, timeout_seconds: float) -> tuple[list[Transition], int]:
        """What the kernel reported since the last call, and how many records made no sense.

        Waits for at most `timeout_seconds`; 0 takes what is there. All that was reported before
        the call is in its answer.
        """
        if timeout_seconds > 0:
            self._library.bpf_poll_ringbuf(self._ring, int(timeout_seconds * 1000))
        else:
            self._library.bpf_consume_ringbuf(self._ring)
        if not self._records:
            return [], 0
        records = self._records.copy()
        self._records.clear()
        return wire.decode_events(records)

    def counters(self) -> dict[str, int]:
        """Totals since the start, by the names of `struct counters`. Raises OSError."""
        key = ctypes.c_int(0)
        if self._library.bpf_lookup_elem(
            self._counters_fd, ctypes.byref(key), self._counters_buffer
        ):
            number = ctypes.get_errno()
            raise OSError(number, f"BPF counters: {os.strerror(number)}")
        counters = wire.sum_counters(self._counters_buffer.raw)
        counters["removed"] += self._forgotten
        counters["unseen_ends"] += self._forgotten
        return counters

    def overdue(self) -> dict[int, wire.RawAttempt]:
        """Attempts by key that are past the threshold and whose SYN was not seen sent again.

        Not all of them need be in SYN_SENT still: the kernel may have skipped the probe that would
        have seen the end. Whoever reports one asks another source first.
        """
        now = time.monotonic_ns()
        limit = self._threshold_ns
        if limit >= _FIRST_RETRANSMISSION_NS:
            limit += _RETRANSMISSION_GRACE_NS
        return {
            key: raw
            for key, raw in self._read_attempts()
            if raw.start_ns and not raw.retransmitted and now - raw.start_ns >= limit
        }

    def forget(self, key: int, start_ns: int) -> None:
        """Takes an attempt that is over out of the kernel's table, unless the key is another's."""
        attempt_key = ctypes.c_uint64(key)
        value = ctypes.create_string_buffer(wire.ATTEMPT.size)
        if self._library.bpf_lookup_elem(self._attempts_fd, ctypes.byref(attempt_key), value):
            return
        (raw,) = wire.decode_attempts(value.raw)
        if raw.start_ns != start_ns or raw.retransmitted:
            return
        if self._library.bpf_delete_elem(self._attempts_fd, ctypes.byref(attempt_key)) == 0:
            self._forgotten += 1

    def _read_attempts(self) -> Iterator[tuple[int, wire.RawAttempt]]:
        """Everything in the hash. Entries that come and go meanwhile may be missed or repeated."""
        position = ctypes.c_uint32(0)
        first = True
        while True:
            count = ctypes.c_uint32(_READ_ENTRIES)
            failed = self._library.bpf_lookup_batch(
                self._attempts_fd,
                None if first else ctypes.byref(position),
                ctypes.byref(position),
                self._keys_buffer,
                self._values_buffer,
                ctypes.byref(count),
            )
            number = ctypes.get_errno() if failed else 0
            if number not in (0, errno.ENOENT):
                raise OSError(number, f"BPF table of attempts: {os.strerror(number)}")
            used = memoryview(self._values_buffer)[: count.value * wire.ATTEMPT.size]
            yield from zip(
                self._keys_buffer[: count.value], wire.decode_attempts(used), strict=True
            )
            if number == errno.ENOENT:
                return
            first = False

    def close(self) -> None:
        """Detaches everything. The object is of no use afterwards."""
        if self._ring:
            self._library.bpf_free_ringbuf(self._ring)
            self._ring = None
        self._bpf.cleanup()
