"""Which packets of stuck attempts this node's kernel dropped, which devices they were given to, and
when a RST ended one.

A second BPF program (bpf/drops.bpf.c) beside the tracing one, loaded while something is stuck and
gone with close(). It is told which attempts to look for and counts in the kernel; nothing wakes
user space, which reads the counts when it wants them.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tracer.errors import InputError, NoSource
from tracer.facts import Drop, Handed, Reset
from tracer.sources import btf, drop_wire, program
from tracer.sources.drop_reasons import reason_name, reasons
from tracer.sources.kallsyms import addresses_shown, functions
from tracer.sources.load_bcc import (
    compile_program,
    import_bcc,
    require_rights,
    try_raw_tracepoint,
)
from tracer.sources.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracer.model import Attempt, Flow

# Attempts looked for at once, and kinds of drops and of hand-overs counted for them: 11 MB of the
# kernel's memory while the program is loaded.
MAX_WATCHED: Final = 16_384
MAX_ENTRIES: Final = 32_768
# Places in the kernel of which the function's name is kept: a node has dozens.
_MAX_PLACES: Final = 4_096
_REMEDY: Final = "run with --no-evidence to trace without it"

Seen = tuple[tuple[Drop, ...], tuple[Handed, ...]]


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What the running kernel's types say: the program's macros, and the names of reasons.

    `lacking` says what it cannot tell, and what that costs.
    """

    macros: Mapping[str, int | None]
    reasons: Mapping[int, str]
    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Watch:
    """An attempt that the program looks for, by a number that no other ever had."""

    number: int
    isn: int
    flow: Flow
    since_ns: int

    @property
    def entry(self) -> tuple[bytes, bytes]:
        return drop_wire.ISN.pack(self.isn), drop_wire.pack_watched(self.flow, self.number)


class DropProbe:
    """The program, attached to skb:kfree_skb and tcp:tcp_receive_reset, and to
    net:net_dev_start_xmit when asked.

    Loading takes 0.3 s, nearly all of it in the compiler, which leaves other threads alone. Its
    methods raise OSError where the kernel refuses a look into a map. Not for use by several threads
    at once, but for reset_of(); beside a BpfSource of another thread it is.
    """

    def __init__(self, *, max_watched: int = MAX_WATCHED, max_entries: int = MAX_ENTRIES) -> None:
        """Compiles, loads and attaches. Raises NotPermitted and NoSource as BpfSource does."""
        self._closed = False
        self._max_watched = max_watched
        self._watches: dict[str, _Watch] = {}
        self._last_number = 0
        self._refused: frozenset[str] = frozenset()
        self._refusals = 0
        self._counters = drop_wire.Counters(0, 0)
        self._places: dict[int, str | None] = {}
        self._handed_on = False
        require_rights()
        module = import_bcc()
        kernel = _kernel()
        self.lacking = kernel.lacking
        self._reasons = kernel.reasons
        macros = {
            "MAX_WATCHED": max_watched,
            "MAX_ENTRIES": max_entries,
            "PAGE_SIZE": resource.getpagesize(),
            **drop_wire.mirror_macros(),
            **kernel.macros,
        }
        self._bpf = compile_program(module, program.DROPS, macros, _REMEDY)
        try:
            self._library = module.libbcc.lib
            self._open(len(module.utils.get_possible_cpus()))
            self._attach("kfree_skb", "on_kfree_skb")
            refusal = try_raw_tracepoint(self._bpf, "tcp_receive_reset", "on_receive_reset")
            self._sees_resets = refusal is None
            if refusal is not None:
                self.lacking += (f"RSTs that end attempts (tcp:tcp_receive_reset): {refusal}",)
        except BaseException:
            self.close()
            raise

    def _open(self, cpus: int) -> None:
        wire = drop_wire
        library, bpf = self._library, self._bpf
        self._watched = Table(library, bpf[b"watched"].map_fd, wire.ISN, wire.WATCHED, "watched")
        self._drops = Table(library, bpf[b"drops"].map_fd, wire.DROP_KEY, wire.DROP, "drops")
        self._handed = Table(library, bpf[b"handed"].map_fd, wire.HANDED_KEY, wire.HANDED, "handed")
        resets = self._resets_fd = bpf[b"resets"].map_fd
        self._resets = Table(library, resets, wire.WATCH, wire.TIME_NS, "resets")
        self._counters_fd = bpf[b"counters"].map_fd
        self._counters_buffer = ctypes.create_string_buffer(wire.COUNTERS_PER_CPU.size * cpus)

    def _attach(self, tracepoint: str, function: str) -> None:
        failure = try_raw_tracepoint(self._bpf, tracepoint, function)
        if failure is not None:
            raise NoSource(f"cannot attach to tracepoint {tracepoint}: {failure}", hint=_REMEDY)

    @property
    def lost(self) -> int:
        """What found no room since the start: attempts to be watched, and counts of the kernel.

        As of the last watch() and read().
        """
        return self._refusals + self._counters.no_room

    @property
    def mismatched(self) -> int:
        """Packets that had an attempt's sequence number and neither of its ends: not counted."""
        return self._counters.mismatched

    def watched_ns(self, attempt_id: str) -> int | None:
        """Since when (CLOCK_MONOTONIC) an attempt's packets are looked for; None: they are not."""
        watch = self._watches.get(attempt_id)
        return None if watch is None else watch.since_ns

    # --- what is looked for --------------------------------------------------------------------

    def watch(self, attempts: Iterable[Attempt]) -> None:
        """From now on these attempts and no others are looked for.

        What was counted of an attempt stays while it is among them. One whose sequence number is
        not known cannot be looked for; beyond the bound, and where two share a number, the later
        one is not, and is counted in `lost`.
        """
        now = time.monotonic_ns()
        wanted: dict[str, _Watch] = {}
        taken: set[int] = set()
        refused: set[str] = set()
        for attempt in attempts:
            if attempt.isn is None:
                continue
            if attempt.isn in taken or len(wanted) == self._max_watched:
                refused.add(attempt.id)
                continue
            taken.add(attempt.isn)
            wanted[attempt.id] = self._watch_of(attempt, attempt.isn, now)
        before = self._watches
        left = {watch.isn for watch in before.values()} - taken
        self._watched.delete([drop_wire.ISN.pack(isn) for isn in left])
        self._watched.update(
            [watch.entry for name, watch in wanted.items() if before.get(name) is not watch]
        )
        self._watches = wanted
        self._refusals += len(refused - self._refused)
        self._refused = frozenset(refused)

    def _watch_of(self, attempt: Attempt, isn: int, now: int) -> _Watch:
        known = self._watches.get(attempt.id)
        if known is not None and known.isn == isn:
            if known.flow == attempt.flow:
                return known
            return _Watch(known.number, isn, attempt.flow, known.since_ns)
        self._last_number += 1
        return _Watch(self._last_number, isn, attempt.flow, now)

    def watch_handed(self, on: bool) -> None:
        """Whether devices that SYNs are handed to are counted too.

        The program then looks at every packet that this node sends. What was counted stays.
        Raises NoSource where the kernel does not let it be attached.
        """
        if on == self._handed_on:
            return
        if on:
            self._attach("net_dev_start_xmit", "on_start_xmit")
        else:
            self._bpf.detach_raw_tracepoint(b"net_dev_start_xmit")
        self._handed_on = on

    # --- what was seen -------------------------------------------------------------------------

    def read(self) -> dict[str, Seen]:
        """What was counted, by attempt, since each is watched; all that are watched are named.

        Drops in the order in which they were first seen. No hand-over means nothing for times at
        which watch_handed() was off.
        """
        attempts = {watch.number: name for name, watch in self._watches.items()}
        drops = self._read_drops(attempts)
        handed = self._read_handed(attempts)
        self._forget_resets(attempts)
        self._counters = self._read_counters()
        return {
            name: (
                tuple(sorted(drops.get(name, ()), key=lambda drop: drop.first_ns)),
                tuple(handed.get(name, ())),
            )
            for name in self._watches
        }

    def reset_of(self, attempt_id: str) -> tuple[Reset, ...] | None:
        """The RST that ended an attempt while it was watched, if one did; None: nobody looked.

        From any thread, for as long as the probe is not closed: one look into a hash. The program
        notes it before the socket's state changes, so that whoever has heard of the end finds it.
        """
        watch = self._watches.get(attempt_id)
        if watch is None or not self._sees_resets:
            return None
        key, at_ns = ctypes.c_uint32(watch.number), ctypes.c_uint64()
        if self._library.bpf_lookup_elem(self._resets_fd, ctypes.byref(key), ctypes.byref(at_ns)):
            return ()
        return (Reset(watch.flow.destination, at_ns.value),)

    def _forget_resets(self, attempts: Mapping[int, str]) -> None:
        ended = {key for key, _ in self._resets.read()}
        watched = {drop_wire.WATCH.pack(number) for number in attempts} if ended else set()
        self._resets.delete(ended - watched)

    def _read_drops(self, attempts: Mapping[int, str]) -> dict[str, list[Drop]]:
        found: list[tuple[str, drop_wire.RawDropKey, drop_wire.RawDrop]] = []
        stale: set[bytes] = set()
        for key, value in self._drops.read():
            raw = drop_wire.RawDropKey._make(drop_wire.DROP_KEY.unpack(key))
            name = attempts.get(raw.watch)
            if name is None:
                stale.add(key)
            else:
                counted = drop_wire.RawDrop._make(drop_wire.DROP.unpack(value))
                found.append((name, raw, counted))
        self._drops.delete(stale)
        self._learn_places({raw.location for _, raw, _ in found})
        drops: dict[str, list[Drop]] = {}
        for name, raw, counted in found:
            drops.setdefault(name, []).append(self._drop_of(raw, counted))
        return drops

    def _drop_of(self, raw: drop_wire.RawDropKey, counted: drop_wire.RawDrop) -> Drop:
        return Drop(
            direction=drop_wire.DIRECTIONS[raw.direction],
            reason=reason_name(raw.reason, self._reasons),
            symbol=self._places.get(raw.location),
            netns=raw.netns or None,
            device=drop_wire.device_name(counted.device),
            flags=raw.flags,
            count=counted.packets,
            first_ns=counted.first_ns,
            last_ns=counted.last_ns,
        )

    def _learn_places(self, locations: set[int]) -> None:
        unknown = locations - self._places.keys()
        room = _MAX_PLACES - len(self._places)
        if unknown and room > 0:
            self._places |= functions(sorted(unknown)[:room])

    def _read_handed(self, attempts: Mapping[int, str]) -> dict[str, list[Handed]]:
        handed: dict[str, list[Handed]] = {}
        stale: set[bytes] = set()
        for key, value in self._handed.read():
            raw = drop_wire.RawHandedKey._make(drop_wire.HANDED_KEY.unpack(key))
            name = attempts.get(raw.watch)
            if name is None:
                stale.add(key)
                continue
            counted = drop_wire.RawHanded._make(drop_wire.HANDED.unpack(value))
            device = drop_wire.device_name(counted.device) or f"#{raw.ifindex}"
            handed.setdefault(name, []).append(
                Handed(device, raw.netns or None, counted.packets, counted.last_ns)
            )
        self._handed.delete(stale)
        return handed

    def _read_counters(self) -> drop_wire.Counters:
        key = ctypes.c_int(0)
        if self._library.bpf_lookup_elem(
            self._counters_fd, ctypes.byref(key), self._counters_buffer
        ):
            number = ctypes.get_errno()
            raise OSError(number, f"BPF counters of drops: {os.strerror(number)}")
        return drop_wire.sum_counters(self._counters_buffer.raw)

    def close(self) -> None:
        """Detaches and frees everything. The object is of no use afterwards."""
        if self._closed:
            return
        self._closed = True
        self._bpf.cleanup()
        # bcc would keep every program that was ever loaded until the process ends.
        atexit.unregister(self._bpf.cleanup)


@cache
def _kernel() -> _Kernel:
    """Read once: the types are half a million words. Raises NoSource."""
    try:
        types = _types()
        required = {
            macro: types.offset(path) for macro, path in program.DROPS_REQUIRED_MEMBERS.items()
        }
        optional = {
            macro: types.offset(path) for macro, path in program.DROPS_OPTIONAL_MEMBERS.items()
        }
        parameters = types.parameters("btf_trace_kfree_skb") or 0
        names = reasons(types.enumerators("skb_drop_reason"))
    except (OSError, InputError) as error:
        raise NoSource(
            f"the kernel's type information is of no use: {error}",
            hint=f"it needs a kernel built with CONFIG_DEBUG_INFO_BTF; {_REMEDY}",
        ) from None
    missing = [
        path for macro, path in program.DROPS_REQUIRED_MEMBERS.items() if required[macro] is None
    ]
    if missing:
        raise NoSource(f"this kernel has no member {', '.join(missing)}", hint=_REMEDY)
    macros: dict[str, int | None] = {**required}
    lacking: list[str] = []
    if None in optional.values():
        lacking.append(
            "connection tracking's types: packets are not recognised once NAT has replaced both "
            "their source and their destination"
        )
    else:
        macros |= {**optional, "CONNTRACK": None}
    # The first parameter is the tracepoint's own; then skb and location, then what came later.
    if parameters >= 4:
        macros["KFREE_SKB_REASON"] = None
    else:
        lacking.append(
            "drop reasons (Linux 5.17): only the function that dropped a packet is known"
        )
    if parameters >= 5:
        macros["KFREE_SKB_SOCKET"] = None
    if not addresses_shown():
        lacking.append(
            "the addresses in /proc/kallsyms (they need CAP_SYSLOG): the function that dropped a "
            "packet is not known"
        )
    return _Kernel(MappingProxyType(macros), MappingProxyType(names), tuple(lacking))


def _types() -> btf.Btf:
    """The kernel's types with those of connection tracking, which may be a module."""
    try:
        return btf.kernel("nf_conntrack")
    except InputError:
        return btf.kernel()
