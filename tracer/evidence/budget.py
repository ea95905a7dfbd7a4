"""How much CPU time evidence may take: a share of one core on average, more in a burst."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

SHARE: Final = 0.08
"""Of one core, on average."""

BURST_SECONDS: Final = 1.5
"""CPU time that may be taken at once after a quiet time: the first minute of an outage is when
evidence is wanted."""

LONGEST_WAIT_SECONDS: Final = 5.0


class Budget:
    """CPU time saved up while nothing is done, and spent by rounds of work. For one thread."""

    def __init__(
        self,
        *,
        share: float = SHARE,
        burst_seconds: float = BURST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = share
        self._burst = burst_seconds
        self._clock = clock
        self._saved = burst_seconds
        self._at = clock()

    def wait_after(self, cpu_seconds: float) -> float:
        """Takes the CPU time that a round took, and tells how long to wait before the next one."""
        now = self._clock()
        self._saved = min(self._burst, self._saved + (now - self._at) * self._share) - cpu_seconds
        self._at = now
        if self._saved >= 0:
            return 0.0
        return min(LONGEST_WAIT_SECONDS, -self._saved / self._share)
