"""The screen, driven with keys on a picture whose clock stands still.

Golden pictures are text in tests/fixtures/screen; UPDATE_GOLDEN=1 writes them anew: look at them.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.support.picture import DB, DROP, HEALTH, Fake, outage, pod, verdict
from tests.support.screen import Stage, on_screen, shown
from tracer.board import BoardLimits
from tracer.facts import Facts, Neighbour
from tracer.model import (
    COMPARISON,
    CROSSCHECK_FAILED,
    Cause,
    Confidence,
    Endpoint,
    Evidence,
    KubeHealth,
    KubeState,
    Losses,
    Outcome,
    Rates,
    SourceName,
)
from tracer.model import (
    NANOSECONDS as SECOND,
)
from tracer.screen.app import NOTICE_SECONDS
from tracer.screen.glyphs import Glyphs, glyphs_for
from tracer.screen.header import header
from tracer.screen.page import continued
from tracer.screen.pages import CopyScreen
from tracer.screen.rows import Rows
from tracer.screen.view import Group
from tracer.screen.widgets import Table

GOLDEN = Path(__file__).parents[1] / "fixtures" / "screen"
SIZES = [(80, 24), (120, 40), (200, 60), (250, 70)]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def is_golden(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"differs from {path}:\n{text}"


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_an_outage_looks_as_it_was_found_good(size: tuple[int, int]) -> None:
    async def act(stage: Stage) -> None:
        is_golden(f"outage-{size[0]}x{size[1]}", await stage.text())

    on_screen(outage(), act, size=size)


def test_without_unicode_nothing_but_ascii_is_drawn() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.text()
        assert text.isascii()
        is_golden("outage-80x24-ascii", text)
        assert (await stage.press("enter")).isascii()
        assert (await stage.press("escape", "question_mark")).isascii()
        assert (await stage.press("escape", "e")).isascii()

    on_screen(outage(), act, size=(80, 24), unicode=False)


def test_the_empty_state_says_what_is_watched_and_what_was_seen() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.text()
        assert "Watching. Nothing is stuck." in text
        assert "every pod and process of node node-1" in text
        assert "20,311 connects begun, 20,290 established at once" in text
        is_golden("empty-80x24", text)

    on_screen(Fake(), act, size=(80, 24))


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_a_row_in_full_looks_as_it_was_found_good(size: tuple[int, int]) -> None:
    async def act(stage: Stage) -> None:
        is_golden(f"detail-{size[0]}x{size[1]}", await stage.press("enter"))

    on_screen(outage(), act, size=size)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60), (250, 70), (60, 15), (40, 10)])
def test_no_line_is_wider_than_the_screen_and_no_address_is_cut(size: tuple[int, int]) -> None:
    fake = outage()
    longest = "fd77:aaaa:bbbb:cccc:dddd:eeee:ffff:1234"
    fake.stuck(50, pod("a-namespace-with-a-long-name", "b" * 60), longest, 65535, known=DB)

    async def act(stage: Stage) -> None:
        text = await stage.tick(1)
        assert max(map(cell_len, text.splitlines())) <= size[0]
        if size[0] >= 80:
            assert f"[{longest}]:65535" in text
            assert "10.100.7.9:5432" in text
        for keys in (["enter"], ["escape", "e"], ["escape", "question_mark"]):
            text = await stage.press(*keys)
            assert max(map(cell_len, text.splitlines())) <= size[0]

    on_screen(fake, act, size=size)


def test_resizing_while_it_runs_draws_for_the_new_size() -> None:
    async def act(stage: Stage) -> None:
        assert "VPC/internal" in await stage.text()
        await stage.pilot.resize_terminal(80, 24)
        text = await stage.text()
        assert max(map(cell_len, text.splitlines())) <= 80
        assert "10.100.7.9:5432" in text
        await stage.press("enter")
        await stage.pilot.resize_terminal(200, 60)
        assert "next steps" in await stage.text()

    on_screen(outage(), act, size=(140, 40))


def test_ages_and_countdowns_go_on_without_events() -> None:
    async def act(stage: Stage) -> None:
        assert re.search(r" 1\.0s +2 +2\.0s ", await stage.text())
        assert re.search(r" 2\.5s +2 +0\.5s ", await stage.tick(1.5))
        assert re.search(r" 61s|1m01s +2 +due ", await stage.tick(58.5))

    fake = Fake()
    fake.stuck(1, pod())
    on_screen(fake, act)


# --- header --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "BPF ok"),
        ({"backend": SourceName.SOCK_DIAG}, "polling sock_diag"),
        ({"lacking": ("BPF: no kernel type information",)}, "! BPF: no kernel type information"),
        ({"lacking": ("a", "b", "c")}, "! b  (+1: e)"),
        ({"losses": Losses(ring_full=7)}, "lost: 7 ring_full"),
        ({"crosscheck": replace(HEALTH.crosscheck, missed=2)}, "cross-check: 2 missed"),
        ({"crosscheck": replace(HEALTH.crosscheck, sweeps=0)}, "not cross-checked"),
        ({"lacking": (f"{CROSSCHECK_FAILED}: no rights",)}, "cross-check: failed"),
        ({"withheld": 300}, "300 withheld, pod not known"),
        ({"kube": KubeHealth(KubeState.OFF)}, "no API server asked"),
        ({"kube": KubeHealth(KubeState.CONNECTING)}, "API connecting"),
        (
            {"kube": KubeHealth(KubeState.DEGRADED, "no route", 1_699_999_400 * 10**9)},
            "API degraded, names 10m00s old",
        ),
        ({"rates": Rates()}, "nothing is stuck"),
    ],
)
def test_the_header_says_what_the_picture_is_worth(change: dict[str, object], said: str) -> None:
    fake = Fake(health=replace(HEALTH, **change))  # type: ignore[arg-type]
    for width in (80, 160):
        lines = header(fake.snapshot(), Rows(), node="n", width=width, glyphs=Glyphs())
        assert said in "\n".join(line.plain for line in lines)
        assert max(line.cell_len for line in lines) <= width


@pytest.mark.parametrize("width", [80, 120, 200])
def test_nothing_that_is_wrong_falls_off_the_header(width: int) -> None:
    node = "ip-10-0-12-34.eu-central-1.compute.internal-1"
    fake = Fake(
        limits=BoardLimits(attempts=0),
        health=replace(
            HEALTH,
            losses=Losses(ring_full=1_234, queue_full=22),
            crosscheck=replace(HEALTH.crosscheck, missed=3, unended=5),
            kube=KubeHealth(KubeState.DEGRADED, "no route", 1_699_999_400 * 10**9),
        ),
    )
    fake.stuck(1, pod())
    fake.advance(11_000)
    lines = header(
        fake.snapshot(),
        Rows(),
        node=node,
        width=width,
        glyphs=Glyphs(),
        recording=f"/root/synsent-events-{node}-20261121-185553.jsonl",
        note="REPLAY at 2026-11-21 18:55:53, 10x",
        frozen_seconds=420.0,
        roomy=False,
    )
    text = "\n".join(line.plain for line in lines)
    said = (
        node, "FROZEN 7m00s ago", "REPLAY at", "lost: 1234 ring_full, 22 queue_full",
        "1 found no room since the start", "cross-check: 3 missed, 5 unended", "API degraded",
        "REC synsent-",
    )  # fmt: skip
    places = [text.index(part) for part in said]
    assert places == sorted(places)
    assert "/root" not in text
    assert max(line.cell_len for line in lines) <= width


def test_a_share_of_success_is_of_what_ended_and_never_green_while_something_is_stuck() -> None:
    fake = Fake()
    fake.stuck(1, pod())
    fake.advance(1)
    fake.health = replace(fake.health, rates=Rates(21_311, 20_790))
    fake.advance(1)
    said, style = success_said(fake)
    assert said == "100% of connects that ended succeeded"
    assert "green" not in style
    fake.end(1, Outcome.ABORTED)
    assert success_said(fake) == ("100% of connects succeed", "green")


def success_said(fake: Fake) -> tuple[str, str]:
    """The share as the header says it, and its style."""
    for line in header(fake.snapshot(), Rows(), node="n", width=160, glyphs=Glyphs()):
        for span in line.spans:
            said = line.plain[span.start : span.end]
            if "% of" in said:
                return said, str(span.style)
        if "% of" in line.plain:
            return line.plain[line.plain.rindex("  ") + 2 :], ""
    return "", ""


def test_polling_is_not_said_to_have_lost_nothing() -> None:
    for backend, said in ((SourceName.BPF, True), (SourceName.SOCK_DIAG, False)):
        fake = Fake(health=replace(HEALTH, backend=backend))
        line = header(fake.snapshot(), Rows(), node="n", width=200, glyphs=Glyphs())[0]
        assert ("nothing lost" in line.plain) is said


def test_an_empty_table_does_not_say_that_nothing_is_stuck_while_something_is() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.text()
        assert "STUCK 1 " in text
        assert "1 stuck, but not in the picture." in text
        assert "1 attempts found no room in it" in text
        assert "Nothing is stuck." not in text
        stage.fake.end(1, Outcome.ABORTED)
        assert "Watching. Nothing is stuck." in await stage.tick(100)

    fake = Fake(limits=BoardLimits(attempts=0))
    fake.stuck(1, pod())
    on_screen(fake, act, size=(80, 24))


def test_what_is_withheld_is_said_where_nothing_is_shown() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.text()
        assert "pod's name or labels are not known: 300." in text
        assert "own connects, not shown: 7." in text
        assert "On the whole node: 20,311 connects begun" in text
        assert "succeed" not in text

    on_screen(Fake(scoped=True, health=replace(HEALTH, withheld=300, own_connects=7)), act)


def test_attempts_that_found_no_room_are_said() -> None:
    fake = Fake(limits=BoardLimits(attempts=1))
    fake.stuck(1, pod())
    fake.stuck(2, pod())
    lines = header(fake.snapshot(), Rows(), node="n", width=120, glyphs=Glyphs())
    assert "1 found no room since the start" in lines[0].plain


# --- keys ----------------------------------------------------------------------------------------


def test_arrows_pages_home_and_end_move_the_cursor() -> None:
    fake = Fake()
    for number in range(100):
        fake.stuck(number, pod(name=f"web-{number:03d}"))

    async def act(stage: Stage) -> None:
        assert "1/100" in await stage.text()
        for keys, at in (
            (["down", "down"], "3/100"),
            (["up"], "2/100"),
            (["end"], "100/100"),
            (["down"], "100/100"),
            (["home"], "1/100"),
            (["up"], "1/100"),
        ):
            assert at in await stage.press(*keys)
        table = stage.app.screen.query_one(Table)
        height = table.size.height
        assert f"{height}/100" in await stage.press("pagedown")
        assert f"{2 * height - 1}/100" in await stage.press("pagedown")
        assert f"{height}/100" in await stage.press("pageup")
        await stage.press("end")
        assert "web-" in (await stage.text()).splitlines()[-2]

    on_screen(fake, act)


def test_the_cursor_stays_with_its_row_when_rows_above_it_go() -> None:
    fake = Fake()
    for number in range(5):
        fake.stuck(number, pod(name=f"web-{number}"))

    async def act(stage: Stage) -> None:
        await stage.press("down", "down", "down")
        table = stage.app.screen.query_one(Table)
        assert table.row is not None
        chosen = table.row.key
        fake.end(0, Outcome.ABORTED)
        fake.end(1, Outcome.ABORTED)
        assert "4/5" in await stage.tick(1)
        assert "2/3" in await stage.tick(70)
        assert table.row is not None
        assert table.row.key == chosen

    on_screen(fake, act)


def test_enter_shows_a_row_in_full_and_escape_leaves_it() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.press("enter")
        for part in (
            "shop/web-0",
            "dropped-here (high)",
            "service shop/db:5432 0/3 ready",
            "course of the first",
            "next steps",
            "10.100.7.9:5432 -> 10.4.100.50:5432",
            "Deployment shop/web",
        ):
            text += await stage.press("pagedown")
            assert part in text, part
        assert "Enter detail" in await stage.press("escape")

    on_screen(outage(), act, size=(140, 40))


def test_evidence_is_told_with_its_time_and_what_others_met_comes_first() -> None:
    fake = outage()
    others = Evidence(COMPARISON, "52.94.10.112:443 fails from 2 pods on this node")
    seen = Evidence("icmp", "ICMP type 3 code 13 came from 10.0.0.1", fake.now_ns - 2 * SECOND)
    fake.why(3, verdict(Cause.REFUSED_BY_FIREWALL, Confidence.MEDIUM, seen, others))

    async def act(stage: Stage) -> None:
        text = await stage.press("slash", *"pod:cart", "enter", "enter")
        why = text.index("refused-by-firewall (medium)")
        assert why < text.index("fails from 2 pods") < text.index("attempts over time")
        assert text.count("fails from 2 pods") == 1
        assert "22:13:27 ICMP type 3 code 13" in await stage.press("end")

    on_screen(fake, act, size=(140, 40))


@pytest.mark.parametrize(("rows", "told"), [(19, 0), (20, 2), (24, 3), (40, 4)])
def test_why_and_what_next_of_the_row_under_the_cursor_are_told_where_there_is_room(
    rows: int, told: int
) -> None:
    fake = outage()
    others = Evidence(COMPARISON, "others are well")
    fake.why(0, replace(DROP, evidence=(others,), summary="it is dropped " * 20))

    async def act(stage: Stage) -> None:
        lines = (await stage.text()).splitlines()
        assert len(lines) == rows
        assert ("why  dropped-here (high): it is" in "\n".join(lines)) is bool(told)
        if told:
            at = next(i for i, line in enumerate(lines) if line.startswith("why "))
            assert rows - 1 - at == told
            assert lines[-2].startswith("next iptables-save -c | grep")
            assert ("others are well" in "\n".join(lines)) is (told > 3)
            text = await stage.press("down", "down")
            assert "why  no-reply (high)" in text
            assert "dropped-here" not in text.splitlines()[at]

    on_screen(fake, act, size=(80, rows))


def test_next_steps_follow_from_the_facts_behind_a_verdict() -> None:
    hop = Endpoint("10.4.100.50", 5432)
    facts = Facts(
        destination=DB, asked=hop, netns=1, now_ns=0,
        neighbour=Neighbour("10.4.0.1", "eth7", "FAILED", 0),
    )  # fmt: skip
    fake = outage()
    fake.why(0, replace(verdict(Cause.NO_NEIGHBOUR), facts=facts))
    for number in (1, 2):
        fake.end(number, Outcome.ABORTED)

    async def act(stage: Stage) -> None:
        assert "ip neigh show 10.4.0.1" in await stage.press("slash", *"pod:web", "enter")
        await stage.press("y")
        assert "ip neigh show 10.4.0.1" in stage.app.clipboard

    on_screen(fake, act)


def test_the_time_to_the_next_syn_counts_down_in_full_too() -> None:
    async def act(stage: Stage) -> None:
        assert "next SYN in 8.0s" in await stage.press("enter")
        assert "next SYN in 5.0s" in await stage.tick(3)

    on_screen(outage(), act, size=(140, 40))


def test_a_row_in_full_survives_its_end() -> None:
    async def act(stage: Stage) -> None:
        await stage.press("enter")
        for number in (0, 1, 2):
            stage.fake.end(number, Outcome.TIMED_OUT)
        assert "nothing is stuck any more" in await stage.tick(1)
        assert "nothing is stuck any more" in await stage.tick(100)

    on_screen(outage(), act, size=(140, 40))


def test_the_filter_is_applied_while_it_is_typed_and_escape_takes_it_back() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.press("slash", *"tag:ext")
        assert "52.94.10.112:443" in text
        assert "10.100.7.9" not in text
        text = await stage.press("escape")
        assert "10.100.7.9" in text
        text = await stage.press("slash", *"pod:cart", "enter")
        assert "/pod:cart" in text
        assert "10.100.7.9" not in text
        assert "1/1" in await stage.press("down")
        assert "10.100.7.9" in await stage.press("escape")

    on_screen(outage(), act)


def test_a_filter_that_is_none_is_said_and_nothing_matching_too() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.press("slash", *"age>x", "enter")
        assert "no filter: age>x" in text
        text = await stage.press("escape", "slash", *"zzz", "enter")
        assert "Nothing that is shown matches." in text
        assert "shop/web-0" in await stage.press("escape")

    on_screen(outage(), act)


def test_letters_typed_into_the_filter_are_no_keys() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.press("slash", *"gseqwry", "question_mark", "space")
        assert "by pod + destination" in text
        assert "help" not in text.splitlines()[0]
        assert stage.services.recording is None
        assert not stage.services.reports

    on_screen(outage(), act)


def test_g_goes_through_every_grouping_and_round() -> None:
    async def act(stage: Stage) -> None:
        said = [await stage.text()]
        said += [await stage.press("g") for _ in Group]
        for group, text in zip([*Group, Group.PAIR], said, strict=True):
            assert f"by {group}" in text
        assert "169.254.169.254:80" in said[1]
        assert "Deployment shop/cart" in said[3]
        assert ":40003 → 52.94.10.112:443" in said[4]

    on_screen(outage(), act, size=(140, 40))


def test_s_goes_through_the_orders_and_shift_s_turns_them_round() -> None:
    async def act(stage: Stage) -> None:
        assert "sort ▼ oldest" in await stage.press("s")
        assert "sort ▼ SYNs" in await stage.press("s")
        text = await stage.press("S")
        assert "sort ▲ SYNs" in text
        for word in ("ended", "verdict", "pod", "destination", "stuck"):
            assert f"sort ▼ {word}" in await stage.press("s")

    on_screen(outage(), act)


def test_o_puts_new_rows_in_order() -> None:
    async def act(stage: Stage) -> None:
        for number in range(60, 70):
            stage.fake.stuck(number, pod(name="new"))
        text = await stage.tick(1)
        assert "1 new at the end, o orders" in text
        assert text.index("shop/web-0") < text.index("shop/new")
        text = await stage.press("o")
        assert text.index("shop/new") < text.index("shop/web-0")

    on_screen(outage(), act)


def test_t_shows_the_inside_the_outside_and_all() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.press("t")
        assert "only VPC/internal" in text
        assert "52.94.10.112" not in text
        text = await stage.press("t")
        assert "only external" in text
        assert "10.100.7.9" not in text
        assert "only" not in await stage.press("t")

    on_screen(outage(), act)


def test_space_freezes_the_picture_while_the_trace_goes_on() -> None:
    async def act(stage: Stage) -> None:
        assert "FROZEN" in await stage.press("space")
        stage.fake.stuck(70, pod(name="later"))
        text = await stage.tick(5)
        assert "later" not in text
        assert "FROZEN 5s ago" in text
        assert "STUCK 5" in text
        text = await stage.press("space")
        assert "later" in text
        assert "STUCK 6" in text

    on_screen(outage(), act)


def test_e_shows_the_events_and_follows_them() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.press("e")
        assert "BPF attached 0.52 s" in text
        assert "END   169.254.169.254:80" in text
        for number in range(100, 150):
            stage.fake.stuck(number, pod(name=f"p{number}"))
        text = await stage.tick(1)
        assert "p149" in text
        await stage.press("home")
        stage.fake.stuck(200, pod(name="p200"))
        assert "p200" not in await stage.tick(1)
        assert "p200" in await stage.press("end")
        assert "by pod + destination" in await stage.press("e")

    on_screen(outage(), act)


LACKING = (
    "kprobe on tcp_connect: the source port is known from the first retransmission on, not before",
    "probe of drops: kfree_skb_reason is not there, so drops on this node are not seen: word-last",
    f"{CROSSCHECK_FAILED}: sock_diag: permission denied while the sockets were listed",
)


@pytest.mark.parametrize("height", [24, 16])
def test_e_tells_in_full_what_the_trace_lacks_however_much_has_happened_since(height: int) -> None:
    kube = KubeHealth(KubeState.DEGRADED, "no route to the API server", None)
    losses = Losses(ring_full=7)
    fake = Fake(
        limits=BoardLimits(log=50),
        health=replace(HEALTH, lacking=LACKING, kube=kube, losses=losses, withheld=3),
    )
    fake.lifecycle()
    for number in range(100):
        fake.stuck(number, pod("s", f"p{number}"))

    async def act(stage: Stage) -> None:
        text = await stage.press("e")
        assert "s/p99" in text
        if height == 16:
            assert "Home shows what the trace lacks" in text
            text = await stage.press("home")
        told = " ".join(text.split())
        for said in (
            *LACKING, "names: no route to the API server", "losses: 7 ring_full", "known: 3;",
            "cross-check: failed",
        ):  # fmt: skip
            assert said in told, said

    on_screen(fake, act, size=(80, height))


def test_w_writes_a_report_of_what_is_shown() -> None:
    async def act(stage: Stage) -> None:
        assert "report written to ./report" in await stage.press("w")
        (snapshot,) = stage.services.reports
        assert snapshot.totals.stuck_now == 5
        stage.fake.advance(NOTICE_SECONDS + 1)
        assert "report written" not in await stage.tick()

    on_screen(outage(), act)


def test_r_starts_and_stops_a_recording_and_the_header_says_so() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.press("r")
        assert "REC events.jsonl" in text
        assert "REC" not in await stage.press("r")

    on_screen(outage(), act)


def test_y_copies_the_first_command_and_shows_it() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.press("y")
        assert stage.app.clipboard.startswith("iptables-save -c")
        assert stage.app.clipboard in text
        assert "Enter detail" in await stage.press("escape")
        stage.services.copies = False
        assert "no clipboard" in await stage.press("y")
        await stage.press("escape")

    on_screen(outage(), act)


LONG = (
    "nsenter -t 123456 -n timeout 20 tcpdump -nni any -c 20 'tcp and host 10.100.100.100 and "
    "port 5432 and (tcp[tcpflags] & (tcp-syn|tcp-rst) != 0)'"
)


def words(command: str) -> list[str]:
    """What a shell makes of it."""
    script = f"set -- {command}\nprintf '%s\\0' \"$@\""
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize(
    "command", ["a", "printf '%s|' " + "ab\\ c \"d e\" 'f\\' " * 20, "x " * 90 + "y"]
)
def test_a_command_in_lines_is_the_same_command_to_a_shell(command: str) -> None:
    for width in (40, 80):
        lines = continued(command, width)
        assert all(cell_len(line) <= width for line in lines)
        assert words("\n".join(lines)) == words(command)


def test_a_command_goes_on_below_outside_of_its_quotes() -> None:
    assert continued(LONG, 120)[0].endswith("-c 20 \\")
    assert words("\n".join(continued(LONG, 120))) == words(LONG)


def test_y_shows_a_long_command_as_it_can_be_pasted() -> None:
    async def act(stage: Stage) -> None:
        stage.app.open(CopyScreen("echo " + "word " * 30 + "end", sent=False))
        text = await stage.text()
        shown = text[text.index("echo") : text.index("end") + 3]
        assert len(shown.splitlines()) == 3
        assert words(shown) == ["echo", *["word"] * 30, "end"]
        assert all(line.endswith(" \\") for line in shown.splitlines()[:-1])

    on_screen(Fake(), act, size=(80, 24))


def test_y_without_a_row_says_so() -> None:
    async def act(stage: Stage) -> None:
        assert "no row" in await stage.press("y")
        assert "Watching" in await stage.press("enter")

    on_screen(Fake(), act)


def test_the_help_names_every_key() -> None:
    async def act(stage: Stage) -> None:
        text = await stage.press("question_mark")
        for key in ("Enter", "/", "g", "s", "t", "space", "e", "w", "r", "y", "?", "q"):
            assert re.search(rf"^{re.escape(key)} +\w", text, re.MULTILINE), key
        is_golden("help-120x40", text)

    on_screen(outage(), act)


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+q"])
def test_q_and_ctrl_c_leave(key: str) -> None:
    async def act(stage: Stage) -> None:
        await stage.pilot.press(key)
        await stage.pilot.pause()
        assert not stage.app.is_running or stage.app._exit

    on_screen(outage(), act)


def test_ctrl_c_leaves_from_every_page() -> None:
    async def act(stage: Stage) -> None:
        left = []
        stage.app.when_left = lambda: left.append(True)
        await stage.press("enter")
        await stage.pilot.press("ctrl+c")
        await stage.pilot.pause()
        assert left

    on_screen(outage(), act)


def test_the_mouse_chooses_a_row_and_opens_it() -> None:
    async def act(stage: Stage) -> None:
        await stage.pilot.click(Table, offset=(5, 1))
        assert "2/4" in await stage.text()
        await stage.pilot.click(Table, offset=(5, 1))
        assert "attempts over time" in await stage.text()

    on_screen(outage(), act)


def test_a_terminal_that_is_gone_ends_the_screen() -> None:
    async def act(stage: Stage) -> None:
        stage.services.gone = True
        stage.app.tick()
        await stage.pilot.pause()
        assert stage.app._exit

    on_screen(outage(), act)


def test_nothing_is_drawn_for_a_terminal_that_takes_nothing() -> None:
    async def act(stage: Stage) -> None:
        stage.services.stalled = True
        before = stage.app.pictures
        await stage.tick(5)
        assert stage.app.pictures == before
        stage.services.stalled = False
        await stage.tick(1)
        assert stage.app.pictures == before + 1

    on_screen(outage(), act)


def test_an_idle_screen_draws_once_a_second() -> None:
    async def act(stage: Stage) -> None:
        await stage.tick(3)
        before = stage.app.pictures
        for _ in range(40):
            stage.fake.now_ns += 250_000_000
            stage.app.tick()
        assert stage.app.pictures - before <= 11

    on_screen(Fake(), act)


# --- what the terminal can -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "unicode"),
    [
        ({"TERM": "xterm-256color", "LANG": "en_US.UTF-8"}, True),
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "screen", "LANG": "C.UTF-8"}, True),
        ({"TERM": "linux", "LANG": "en_US.UTF-8"}, False),
        ({"TERM": "vt100"}, False),
        ({"TERM": "xterm", "LANG": "de_DE.ISO-8859-1"}, False),
        ({"TERM": "xterm", "LANG": "de_DE@euro"}, True),
        ({"TERM": "xterm", "LC_ALL": "en_US.utf8"}, True),
    ],
)
def test_characters_are_those_that_the_terminal_has(
    environment: dict[str, str], unicode: bool
) -> None:
    assert glyphs_for(environment).unicode is unicode
    assert not glyphs_for(environment, ascii_only=True).unicode


def test_without_colours_the_picture_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []

    async def act(stage: Stage) -> None:
        texts.append(await stage.text())
        colours = {
            segment.style.color
            for strip in stage.app.screen._compositor.render_strips()
            for segment in strip
            if segment.style is not None and segment.style.color is not None
        }
        texts.append(str(bool({c for c in colours if not c.is_default})))

    on_screen(outage(), act)
    monkeypatch.setenv("NO_COLOR", "1")
    on_screen(outage(), act)
    assert texts[0] == texts[2]


def test_only_the_sixteen_colours_of_the_terminal_are_used() -> None:
    async def act(stage: Stage) -> None:
        for keys in ([], ["enter"], ["escape", "e"], ["escape", "slash", "x"]):
            await stage.press(*keys)
            for strip in stage.app.screen._compositor.render_strips():
                for segment in strip:
                    for color in (
                        (segment.style.color, segment.style.bgcolor) if segment.style else ()
                    ):
                        assert color is None or color.triplet is None, (keys, segment)

    on_screen(outage(), act)


def test_the_verdict_is_found_in_the_row_in_words_of_every_width() -> None:
    fake = outage()
    fake.why(3, DROP)

    async def act(stage: Stage) -> None:
        text = await stage.tick(1)
        assert "drop" in text

    for size in SIZES:
        on_screen(fake, act, size=size)


def test_shown_is_what_is_on_the_screen() -> None:
    async def act(stage: Stage) -> None:
        assert shown(stage.app) == await stage.text()

    on_screen(Fake(), act)


def test_a_line_of_one_style_keeps_it() -> None:
    async def act(stage: Stage) -> None:
        await stage.text()
        styled = {
            segment.text.strip(): segment.style
            for strip in stage.app.screen._compositor.render_strips()
            for segment in strip
        }
        style = styled["! this is lacking"]
        assert style is not None
        assert style.color is not None
        assert style.color.name == "yellow"

    fake = Fake(health=replace(HEALTH, lacking=("this is lacking",)))
    on_screen(fake, act)


def test_the_last_picture_is_kept_where_one_is_asked_for(tmp_path: Path) -> None:
    async def act(stage: Stage) -> None:
        stage.app.screenshot = tmp_path / "screen.svg"
        await stage.pilot.press("q")
        over_at = time.monotonic() + 20
        while not stage.app.screenshot.exists() and time.monotonic() < over_at:
            await stage.pilot.pause()

    on_screen(outage(), act, size=(140, 40))
    svg = (tmp_path / "screen.svg").read_text()
    assert "shop/web-0" in svg
    assert "synsent-trace&#160;on&#160;node-1" in svg or "synsent-trace on node-1" in svg
    assert "@font-face" not in svg
