from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracer.text import safe

ANY_TEXT = st.text(st.characters(exclude_categories=()))
HARMFUL = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_plain_text_is_returned_as_it_is() -> None:
    text = "nginx: worker process [12] ~/.a\\b 'c' \"d\""

    assert safe(text) is text


@pytest.mark.parametrize("text", ["café", "日本語", "naïve – déjà", "emoji 🙂"])
def test_letters_of_every_script_stay_readable(text: str) -> None:
    assert safe(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x00\x07\x7f", r"\x00\x07\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("exe\u202efdp.", r"exe\u202efdp."),
        ("\u2066x\u2069", r"\u2066x\u2069"),
        ("a\u200bb\ufeff\xad", r"a\u200bb\ufeff\xad"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\udc80", r"\udc80"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_a_character_that_could_do_harm_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_no_harmful_character_of_unicode_is_forgotten() -> None:
    forgotten = [
        char
        for char in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(char) in HARMFUL and char in safe(char)
    ]

    assert not forgotten


def test_markup_is_left_as_the_text_it_is() -> None:
    assert safe("[bold red]x[/] :smile:") == "[bold red]x[/] :smile:"


@given(ANY_TEXT)
@example("\x1b]0;title\x07")
def test_what_comes_out_has_no_control_character(text: str) -> None:
    assert all(unicodedata.category(char) not in HARMFUL for char in safe(text))


@given(ANY_TEXT)
def test_making_safe_text_safe_changes_nothing(text: str) -> None:
    assert safe(safe(text)) == safe(text)


@given(ANY_TEXT)
def test_what_is_visible_survives_in_its_order(text: str) -> None:
    visible = [char for char in text if char.isprintable()]
    left = iter(safe(text))

    assert all(char in left for char in visible)
