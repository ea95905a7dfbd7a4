"""The text that the compiler gets: headers written out in place, lines numbered, macros defined."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest

from tracer.errors import NoSource
from tracer.model import TcpState
from tracer.settings import Limits
from tracer.sources import program

FOLDER = program.source_folder()
MAIN = program.TRACE
PROGRAMS = (program.TRACE, program.DROPS)
# What is read of the kernel: where every kernel has it, and where its macro must be tested first.
MEMBERS = {
    program.TRACE: (program.REQUIRED_MEMBERS, program.OPTIONAL_MEMBERS),
    program.DROPS: (program.DROPS_REQUIRED_MEMBERS, program.DROPS_OPTIONAL_MEMBERS),
}
LOCAL_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
SYSTEM_INCLUDE = re.compile(r"^#include <.+>$", re.MULTILINE)
EVERY_PROGRAM = pytest.mark.parametrize("main", PROGRAMS)
LINE = re.compile(r'#line (\d+) "([^"]+)"')


def headers_used_by(folder: Path, name: str = MAIN) -> list[str]:
    """Local headers in the order in which the program includes them, nested ones too."""
    found: list[str] = []
    for header in LOCAL_INCLUDE.findall((folder / name).read_text("utf-8")):
        found += [header, *headers_used_by(folder, header)]
    return found


def located(text: str) -> list[tuple[str, int, str]]:
    """File, number and text of each line as the compiler counts them by #line."""
    file, number = "", 0
    found: list[tuple[str, int, str]] = []
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match:
            number, file = int(match[1]), match[2]
        else:
            found.append((file, number, line))
            number += 1
    return found


def misplaced(folder: Path, main: str = MAIN) -> list[tuple[str, int, str]]:
    """Lines of the expanded program that are not where #line says."""
    files = {path.name: path.read_text("utf-8").splitlines() for path in folder.glob("*.[ch]")}
    return [
        (file, number, line)
        for file, number, line in located(program.source_text(folder, main))
        if not 1 <= number <= len(files[file]) or files[file][number - 1] != line
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A program whose headers include one another."""
    files = {
        MAIN: '#include <system.h>\n#include "a.h"\nint main_1;\n#include "c.h"\nint main_2;\n',
        "a.h": '/* a */\n#include "b.h"\nint a;\n',
        "b.h": "int b;\n",
        "c.h": "int c;",
        "unused.h": "int unused;\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


# --- expansion -----------------------------------------------------------------------------------


@EVERY_PROGRAM
def test_every_local_header_of_the_program_is_written_out_once(main: str) -> None:
    text = program.source_text(FOLDER, main)
    opened = [file for number, file in LINE.findall(text) if number == "1"]
    assert opened == [main, *headers_used_by(FOLDER, main)]
    assert len(set(opened)) == len(opened)


@EVERY_PROGRAM
def test_no_local_include_is_left_for_the_compiler(main: str) -> None:
    assert LOCAL_INCLUDE.findall(program.source_text(FOLDER, main)) == []


@EVERY_PROGRAM
def test_system_includes_stay_where_they_are(main: str) -> None:
    written = SYSTEM_INCLUDE.findall((FOLDER / main).read_text("utf-8"))
    assert written
    assert SYSTEM_INCLUDE.findall(program.source_text(FOLDER, main)) == written


@EVERY_PROGRAM
def test_every_line_of_the_program_is_in_the_file_and_line_that_the_compiler_will_name(
    main: str,
) -> None:
    assert misplaced(FOLDER, main) == []


@EVERY_PROGRAM
def test_no_line_of_any_file_is_lost(main: str) -> None:
    kept = located(program.source_text(FOLDER, main))
    for name in (main, *headers_used_by(FOLDER, main)):
        lines = (FOLDER / name).read_text("utf-8").splitlines()
        expected = [line for line in lines if not LOCAL_INCLUDE.match(line)]
        assert [line for file, _, line in kept if file == name] == expected


def test_every_header_is_used_by_a_program() -> None:
    used = {header for main in PROGRAMS for header in headers_used_by(FOLDER, main)}
    assert {path.name for path in FOLDER.glob("*.h")} == used


def test_headers_within_headers_are_expanded_where_they_stand(folder: Path) -> None:
    text = [line for _, _, line in located(program.source_text(folder))]
    assert text == [
        "#include <system.h>",
        "/* a */",
        "int b;",
        "int a;",
        "int main_1;",
        "int c;",
        "int main_2;",
    ]
    assert misplaced(folder) == []


# --- where the sources are -----------------------------------------------------------------------


def test_the_installed_copy_is_taken_before_that_of_a_checkout(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.setattr(program, "_FOLDERS", (folder, FOLDER))
    assert program.source_folder() == folder
    monkeypatch.setattr(program, "_FOLDERS", (empty, FOLDER))
    assert program.source_folder() == FOLDER


def test_missing_sources_are_named_with_where_they_were_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_FOLDERS", (tmp_path / "one", tmp_path / "two"))
    with pytest.raises(NoSource, match=rf"{MAIN}.*one or .*two") as caught:
        program.source_folder()
    assert "--backend poll" in caught.value.hint


# --- macros --------------------------------------------------------------------------------------


def test_macros_are_defined_with_and_without_a_value() -> None:
    macros = {"WITH": 7, "ZERO": 0, "WITHOUT": None, "LARGE": 2**40}
    assert program.define(macros) == ["-DWITH=7", "-DZERO=0", "-DWITHOUT", f"-DLARGE={2**40}"]
    assert program.define({}) == []


@pytest.mark.parametrize(
    ("ring_bytes", "pages"),
    [
        (1, 1),
        (resource.getpagesize(), 1),
        (4 * resource.getpagesize(), 4),
        (Limits().ring_bytes, Limits().ring_bytes // resource.getpagesize()),
    ],
)
def test_the_ring_is_given_in_pages_and_never_empty(ring_bytes: int, pages: int) -> None:
    assert program.page_macros(ring_bytes) == {
        "PAGE_SIZE": resource.getpagesize(),
        "RING_PAGES": pages,
    }


def test_the_default_ring_is_a_power_of_two_of_pages_as_the_kernel_demands() -> None:
    pages = program.page_macros(Limits().ring_bytes)["RING_PAGES"]
    assert pages is not None
    assert pages.bit_count() == 1


@EVERY_PROGRAM
def test_the_program_and_the_loader_know_the_same_kernel_members(main: str) -> None:
    required, optional = MEMBERS[main]
    used = set(re.findall(r"\bOFF_\w+", program.source_text(FOLDER, main)))
    assert used - {"OFF_"} == required.keys() | optional.keys()


@EVERY_PROGRAM
def test_the_program_compiles_without_the_members_that_a_kernel_may_lack(main: str) -> None:
    """Each of them is used only where its macro was tested, and never where it must be there."""
    required, optional = MEMBERS[main]
    assert not required.keys() & optional.keys()
    conditions: list[str] = []
    unguarded: list[str] = []
    for file, number, line in located(program.source_text(FOLDER, main)):
        directive, _, name = line.partition(" ")
        if directive in ("#if", "#ifdef", "#ifndef"):
            conditions.append(name if directive == "#ifdef" else "")
        elif directive == "#else":
            conditions[-1] = ""
        elif directive == "#endif":
            conditions.pop()
        else:
            used = set(re.findall(r"\bOFF_\w+", line)) & optional.keys()
            if "CONNTRACK" not in conditions:
                unguarded += [f"{file}:{number}: {macro}" for macro in used - set(conditions)]
    assert conditions == []
    assert unguarded == []


def test_members_that_every_kernel_has_are_used_without_asking() -> None:
    """An #ifdef of a misspelt macro would leave its part of the program out in silence."""
    asked = set(re.findall(r"#\s*ifn?def (OFF_\w+)", program.source_text(FOLDER)))
    assert asked == program.OPTIONAL_MEMBERS.keys()
    text = program.source_text(FOLDER, program.DROPS)
    assert set(re.findall(r"#\s*ifdef (?!SYNSENT_)(\w+)", text)) == {
        "CONNTRACK",
        "KFREE_SKB_REASON",
        "KFREE_SKB_SOCKET",
    }


def test_every_tracepoint_is_taken_in_its_raw_form() -> None:
    """The kernel skips the usual form while a bpf() call is at work on the same CPU."""
    text = program.source_text(FOLDER)
    assert "TRACEPOINT_PROBE" not in text
    handlers = dict(re.findall(r"^int (on_\w+)\(struct (\w+) \*ctx\)", text, re.MULTILINE))
    assert handlers == {
        "on_set_state": "bpf_raw_tracepoint_args",
        "on_retransmit": "bpf_raw_tracepoint_args",
        "on_error_report": "bpf_raw_tracepoint_args",
        "on_tcp_connect": "pt_regs",
    }
    text = program.source_text(FOLDER, program.DROPS)
    handlers = dict(re.findall(r"^int (on_\w+)\(struct (\w+) \*ctx\)", text, re.MULTILINE))
    assert handlers == {
        "on_kfree_skb": "bpf_raw_tracepoint_args",
        "on_receive_reset": "bpf_raw_tracepoint_args",
        "on_start_xmit": "bpf_raw_tracepoint_args",
    }


@pytest.mark.parametrize(
    "state",
    [TcpState.ESTABLISHED, TcpState.SYN_SENT, TcpState.SYN_RECV, TcpState.CLOSE],
    ids=lambda state: state.name,
)
def test_the_program_and_the_model_number_tcp_states_alike(state: TcpState) -> None:
    assert f"\n#define TCP_{state.name} {state.value}\n" in program.source_text(FOLDER)
