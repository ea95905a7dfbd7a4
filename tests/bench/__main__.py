"""Runs the benchmark: healthy connects on loopback with and without the tracer, interleaved.

    python -m tests.bench [--connects N] [--rounds N]

Prints one line a round and the medians with their spread. Only ratios within one run mean anything.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.kernel.test_limits import STORM, cpu_seconds
from tests.support.netns import Namespace, lone_pod
from tests.support.tracer import Tracer

PORT = 8443
STORM_SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--connects", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    plain: list[float] = []
    traced: list[float] = []
    used: list[float] = []
    with lone_pod() as pod, TemporaryDirectory() as folder:
        for number in range(options.rounds):
            plain.append(connects_per_second(pod, options.connects))
            with Tracer(Path(folder) / str(number)) as tracer:
                before = cpu_seconds(tracer.pid)
                traced.append(connects_per_second(pod, options.connects))
                used.append(cpu_seconds(tracer.pid) - before)
                tracer.stop()
            print(
                f"round {number + 1}: {plain[-1]:.0f} connects/s alone, "
                f"{traced[-1]:.0f} traced, {used[-1]:.2f} s of the tracer's CPU",
                flush=True,
            )
    slowdown = 100 * (1 - statistics.median(traced) / statistics.median(plain))
    print(f"alone   {summary(plain)} connects/s")
    print(f"traced  {summary(traced)} connects/s")
    print(f"slowdown {slowdown:.1f} %, tracer's CPU {statistics.median(used):.2f} s a round")


def connects_per_second(pod: Namespace, count: int) -> float:
    """Rate of storm.py's healthy connects in a namespace."""
    argv = [sys.executable, "-S", "-E", str(STORM), "healthy", str(count), str(PORT)]
    output, _ = pod.popen(argv, stdout=subprocess.PIPE).communicate(timeout=STORM_SECONDS)
    return count / float(output)


def summary(values: list[float]) -> str:
    return f"median {statistics.median(values):.0f} (from {min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()
