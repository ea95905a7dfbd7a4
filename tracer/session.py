"""Builds the pipeline of a live trace, runs it, and takes it down again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from tracer.enrich.cluster import ClusterView
from tracer.enrich.destination import Destinations
from tracer.enrich.nat import NatLookups
from tracer.enrich.own import OwnConnects
from tracer.enrich.pod import Pods
from tracer.enrich.presence import Presence
from tracer.enrich.report import Reporter
from tracer.enrich.scope import PodScope, ScopeFilter
from tracer.enrich.service import NamedDestinations
from tracer.errors import UsageError
from tracer.evidence.investigator import Investigator
from tracer.host.netns import host_path
from tracer.host.nodepods import NodePods
from tracer.host.pods import host_netns
from tracer.host.process import ProcessTable
from tracer.host.rights import in_host_pid_namespace
from tracer.kube.informer import Informer
from tracer.kube.names import Names
from tracer.model import (
    CROSSCHECK_FAILED,
    NANOSECONDS,
    Change,
    Health,
    KubeHealth,
    Lifecycle,
    LifecycleKind,
    Losses,
    Rates,
    Report,
    Sweep,
    Verdict,
)
from tracer.settings import Settings
from tracer.sinks import Sink
from tracer.sources.feed import Batch, Inbox, StreamFeed, SweepFeed
from tracer.sources.select import Sources, choose
from tracer.tracker import Tracker

# How often the session looks up when nothing happens: for a stop, a gone reader, its own health.
_TICK_SECONDS: Final = 0.25
# Whoever shows the tracer's state as it is gets it this often.
_PULSE_SECONDS: Final = 1.0
# Whether names are to be had is said sooner, though no more often than this.
_KUBE_SECONDS: Final = 1.0
# News of the tracer's own state: this often while it changes, that often as a sign of life.
_HEALTH_SECONDS: Final = 10.0
_SIGN_OF_LIFE_SECONDS: Final = 60.0
_TOLD_AT_ONCE: Final = 256

_Each = TypeVar("_Each")


class Session:
    """One live trace. `stop` may be called from a signal handler or another thread."""

    def __init__(
        self,
        settings: Settings,
        sinks: Sequence[Sink],
        pulse: Callable[[Health, float], None] | None = None,
    ) -> None:
        """Opens the sources. Raises SynsentError where the machine does not allow a trace.

        `pulse` gets the tracer's state and its uptime in seconds about once a second.
        """
        self._pulse = pulse
        self._pulsed_ns = 0
        self._settings = settings
        self._sinks = sinks
        self._stopping = False
        self._sources: Sources = choose(settings)
        self._inbox = Inbox(settings.limits.queue_batches)
        self._undecodable = 0
        self._began_ns = time.monotonic_ns()
        self._tracker = Tracker(
            run_id=f"{time.time_ns() // 1_000_000:x}-{os.getpid():x}",
            limits=settings.limits,
            threshold_seconds=settings.threshold_seconds,
            streaming=self._sources.bpf is not None,
            began_ns=self._began_ns,
        )
        names = Names() if settings.kube else None
        self._informer = (
            None
            if names is None
            else Informer(
                names,
                node_name=settings.node_name,
                kubeconfig=settings.kubeconfig,
                cache_dir=settings.cache_dir,
            )
        )
        self._nat = NatLookups()
        node = NodePods()
        self._destinations = NamedDestinations(
            Destinations(settings.vpc_cidrs), names, self._destinations_wall_ns
        )
        self._reporter = Reporter(
            self._destinations,
            ProcessTable(),
            Pods(settings.node_name, node, names, self._pods_wall_ns),
            self._nat,
        )
        self._investigator: Investigator | None = None
        if settings.evidence:
            self._investigator = Investigator(
                host_netns=host_netns(),
                host_path=host_path(),
                nat_of=self._nat.nat_of,
                cluster=None if names is None else ClusterView(names),
                sees_packets=self._sources.bpf is not None,
            )
        self._own = OwnConnects(os.getpid(), as_the_kernel_counts=in_host_pid_namespace())
        self._scope: ScopeFilter | None = None
        self._presence: Presence | None = None
        if settings.pods or settings.namespaces or settings.selector is not None:
            wanted = PodScope(settings.pods, settings.namespaces, settings.selector)
            self._scope = ScopeFilter(wanted, names)
            self._presence = Presence(wanted, names, node)
        bpf, poller = self._sources.bpf, self._sources.poller
        interval = settings.poll_seconds if bpf is None else settings.crosscheck_seconds
        self._sweeps = SweepFeed(poller, self._inbox, interval)
        self._stream: StreamFeed | None = None
        if bpf is not None:
            self._stream = StreamFeed(
                bpf,
                self._inbox,
                settings.threshold_seconds,
                self._sweeps.ask,
                forward_sweeps=interval > 0,
            )
            self._sweeps.deliver = self._stream.take_sweep

    def stop(self) -> None:
        """Ends the trace: what was seen is written out, and `run` returns."""
        self._stopping = True  # no lock: a signal may interrupt another signal's handler

    def run(self) -> None:
        """Traces until `stop`, the set duration, or until nobody reads any output.

        Raises SynsentError or OSError where a source dies.
        """
        self._announce(LifecycleKind.START, self._start_message())
        self._touch_ready_file()
        feeds = [self._sweeps] if self._stream is None else [self._stream, self._sweeps]
        for feed in feeds:
            feed.start()
        # Last: what names cost to find is no reason for a trace to begin later.
        self._nat.start()
        if self._investigator is not None:
            self._investigator.start()
        if self._informer is not None:
            self._informer.start()
        try:
            self._loop()
        finally:
            for feed in feeds:
                feed.stop()
            self._take(self._inbox.get(0))
            if self._investigator is not None:
                self._investigator.stop()
            self._nat.stop()
            if self._informer is not None:
                self._informer.stop()
            self._announce(LifecycleKind.STOP, None)
            if self._sources.bpf is not None:
                self._sources.bpf.close()

    def _loop(self) -> None:
        duration = self._settings.duration_seconds
        deadline = None if duration is None else self._began_ns + int(duration * NANOSECONDS)
        said = self._health()
        said_ns = looked_ns = time.monotonic_ns()
        while not self._stopping:
            self._take(self._inbox.get(_TICK_SECONDS))
            self._check_sources()
            now = time.monotonic_ns()
            if deadline is not None and now >= deadline:
                return
            if all(sink.finished for sink in self._sinks):
                return
            if self._presence is not None and now - looked_ns >= _HEALTH_SECONDS * NANOSECONDS:
                looked_ns = now
                news = self._presence.news()
                if news is not None:
                    said, said_ns = self._health(), now
                    self._announce(LifecycleKind.HEALTH, news)
            since = (now - said_ns) / NANOSECONDS
            kube = self._kube()
            if since >= _HEALTH_SECONDS or (
                since >= _KUBE_SECONDS and _gist(kube) != _gist(said.kube)
            ):
                health = self._health()
                if since >= _SIGN_OF_LIFE_SECONDS or _news(health) != _news(said):
                    self._announce(LifecycleKind.HEALTH, None)
                    said, said_ns = health, now
            if self._pulse is not None and now - self._pulsed_ns >= _PULSE_SECONDS * NANOSECONDS:
                self._pulsed_ns = now
                self._pulse(self._health(), (now - self._began_ns) / NANOSECONDS)

    def _check_sources(self) -> None:
        """Raises the error of a source without which nothing is seen any more."""
        main = self._stream or self._sweeps
        if main.failure is not None:
            raise main.failure
        if self._stream is not None:
            # Attempts that the stream believes in are looked for, whatever the counters say.
            self._sweeps.watched = frozenset(
                attempt.flow.netns
                for attempt in self._tracker.live()
                if attempt.flow.netns is not None
            )

    def _take(self, batches: Sequence[Batch]) -> None:
        """Runs what the sources said through tracker and enrichment into every output."""
        for batch in batches:
            offset = time.time_ns() - time.monotonic_ns()
            self._undecodable += batch.undecodable
            changes: list[Change] = self._tracker.apply(batch.transitions, offset)
            if batch.sweep is not None:
                changes += self._tracker.apply_sweep(batch.sweep, offset)
                self._compare(batch.sweep, offset)
            if not changes:
                continue
            for part in _parts(self._own.leave_out(self._reporter.reports(changes, offset))):
                told = part if self._investigator is None else self._investigator.note(part)
                self._write(told)
        for news in _parts(self._news()):
            self._write(self._verdicts(news))

    def _compare(self, sweep: Sweep, wall_offset_ns: int) -> None:
        """Hands on what else was reached by those who have something stuck."""
        if self._investigator is not None and sweep.reached:
            scoped = [
                (one, self._destinations.describe(one.destination).scope) for one in sweep.reached
            ]
            self._investigator.reached(scoped, wall_offset_ns)

    def _news(self) -> Sequence[tuple[Report, Verdict]]:
        return () if self._investigator is None else self._investigator.news()

    def _verdicts(self, news: Sequence[tuple[Report, Verdict]]) -> list[Report]:
        """Verdicts that are new, each as an event of its attempt."""
        now, offset = time.monotonic_ns(), time.time_ns() - time.monotonic_ns()
        return [self._reporter.again(report, verdict, now, offset) for report, verdict in news]

    def _write(self, reports: Sequence[Report]) -> None:
        if self._scope is not None:
            reports = self._scope.filter(reports)
        if not reports:
            return
        for sink in self._sinks:
            sink.write(reports)

    # --- what is said of the tracer itself -----------------------------------------------------

    def _announce(self, kind: LifecycleKind, message: str | None) -> None:
        event = Lifecycle(
            kind=kind,
            wall_ns=time.time_ns(),
            health=self._health(),
            uptime_seconds=(time.monotonic_ns() - self._began_ns) / NANOSECONDS,
            message=message,
        )
        for sink in self._sinks:
            sink.lifecycle(event)

    def _start_message(self) -> str:
        """What the source is, and which of the wanted pods are not there."""
        news = None if self._presence is None else self._presence.news()
        return self._how_it_began() + (f"; {news}" if news else "")

    def _how_it_began(self) -> str:
        took = _seconds_since_process_start()
        after = "" if took is None else f" {took:.2f} s after the program's start"
        if self._sources.bpf is not None:
            return f"BPF attached{after}"
        return f"polling through {self._sources.backend.value}{after}"

    def _touch_ready_file(self) -> None:
        path = self._settings.ready_file
        if path is None:
            return
        try:
            path.touch()
        except OSError as error:
            raise UsageError(f"--ready-file {path}: {error.strerror}") from None

    def _health(self) -> Health:
        counters = self._stream.counters if self._stream is not None else {}
        tracker = self._tracker
        lacking = self._sources.lacking
        if self._sweeps.unseen:
            lacking = (*lacking, self._sweeps.unseen)
        if self._sweeps.failure is not None:
            lacking = (*lacking, f"{CROSSCHECK_FAILED}: {self._sweeps.failure}")
        if self._nat.lacking is not None:
            lacking = (*lacking, self._nat.lacking)
        if self._investigator is not None:
            lacking = (*lacking, *self._investigator.lacking)
        in_kernel = counters.get("added", 0) - counters.get("removed", 0)
        health = Health(
            backend=self._sources.backend,
            hooks=self._sources.hooks,
            lacking=lacking,
            stuck_now=tracker.stuck_now,
            tracked_now=max(in_kernel, tracker.stuck_now),
            outcomes=dict(tracker.outcomes),
            became_stuck=tracker.became_stuck,
            rates=Rates(counters.get("started"), counters.get("established")),
            losses=Losses(
                ring_full=counters.get("ring_full", 0),
                untracked=counters.get("untracked", 0),
                unseen_ends=counters.get("unseen_ends", 0),
                queue_full=self._inbox.dropped,
                undecodable=self._undecodable,
                evidence=0 if self._investigator is None else self._investigator.lost,
                table_full=tracker.table_full,
                output_dropped=sum(sink.dropped for sink in self._sinks if sink.keeps_record),
                lines_not_shown=sum(sink.dropped for sink in self._sinks if not sink.keeps_record),
            ),
            crosscheck=tracker.crosscheck,
            kube=self._kube(),
        )
        health = self._own.without(health)
        return health if self._scope is None else self._scope.narrowed(health)

    def _kube(self) -> KubeHealth:
        return KubeHealth() if self._informer is None else self._informer.health

    def _pods_wall_ns(self) -> int | None:
        return None if self._informer is None else self._informer.pods_wall_ns

    def _destinations_wall_ns(self) -> int | None:
        return None if self._informer is None else self._informer.destinations_wall_ns


def _news(health: Health) -> Health:
    """What is worth telling when it changes; healthy connects, sweeps, the age of names are not."""
    return replace(
        health,
        rates=Rates(),
        tracked_now=0,
        own_connects=0,
        crosscheck=replace(health.crosscheck, sweeps=0, agreed=0, before_start=0),
        kube=_gist(health.kube),
    )


def _parts(whole: Sequence[_Each]) -> Iterator[Sequence[_Each]]:
    """As much as is told at once: with verdict and text an event takes some 10 kB, and thousands of
    attempts may end together.
    """
    for start in range(0, len(whole), _TOLD_AT_ONCE):
        yield whole[start : start + _TOLD_AT_ONCE]


def _gist(kube: KubeHealth) -> KubeHealth:
    return replace(kube, names_wall_ns=None)


def _seconds_since_process_start() -> float | None:
    """Age of this process, from /proc/self/stat field 22 (proc_pid_stat(5)); None if unknown."""
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
