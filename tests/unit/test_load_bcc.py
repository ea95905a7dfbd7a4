"""The compiler's place in the process: it must not be pulled away under a thread that uses it."""

from __future__ import annotations

import subprocess
import sys

SECONDS = 30

ENDS_WHILE_A_THREAD_COMPILES = """
import os, threading, time
from tracer.sources import load_bcc

began = threading.Event()

class Compiler:
    def BPF(text, cflags):
        began.set()
        time.sleep(1)
        os.write(1, b"compiled")

def compiles():
    load_bcc.compile_program(Compiler, load_bcc.program.DROPS, {}, "")

threading.Thread(target=compiles, daemon=True).start()
began.wait()
"""


def test_the_process_does_not_end_under_a_thread_that_compiles() -> None:
    """LLVM's own data is gone as soon as exit() runs: such a thread would crash."""
    done = subprocess.run(
        [sys.executable, "-c", ENDS_WHILE_A_THREAD_COMPILES],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"compiled", b"")
