"""Label selectors: what kubectl's -l selects, and what it refuses."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.errors import UsageError
from tracer.kube.selector import MAX_CHARACTERS, parse

WEB = {"app": "web", "tier": "front", "shard": "7", "example.com/team": "shop", "empty": ""}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        (" \t\n", True),
        # equality
        ("app=web", True),
        ("app==web", True),
        ("app=db", False),
        ("missing=web", False),
        ("app!=db", True),
        ("app!=web", False),
        ("missing!=web", True),
        (" app = web ", True),
        ("app=web,tier=front", True),
        ("app=web , tier=back", False),
        ("example.com/team=shop", True),
        # sets
        ("app in (web,db)", True),
        ("app in(web)", True),
        ("app in (db, cache)", False),
        ("missing in (web)", False),
        ("app notin (web,db)", False),
        ("app notin (db)", True),
        ("missing notin (web)", True),
        # existence
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("! missing", True),
        ("!app", False),
        ("app,!missing,tier in (front)", True),
        # empty values
        ("empty=", True),
        ("empty=,app", True),
        ("app=", False),
        ("empty!=", False),
        ("missing!=", True),
        ("empty in ()", True),
        ("empty in (a,)", True),
        ("empty in (,a)", True),
        ("empty in (a,,b)", True),
        ("app notin ()", True),
        # integers
        ("shard>6", True),
        ("shard>7", False),
        ("shard<10", True),
        ("shard < 7", False),
        ("app>1", False),
        ("missing<1", False),
        # words that are operators too
        ("in", False),
        ("notin", False),
        ("!in", True),
        ("app=in", False),
        ("in in (in)", False),
        ("app notin (in,notin)", True),
    ],
)
def test_a_selector_matches_what_kubectls_does(selector: str, matches: bool) -> None:
    assert parse(selector).matches(WEB) is matches


def test_a_key_may_be_called_as_an_operator_is() -> None:
    labels = {"in": "notin", "notin": "in"}
    assert parse("in in (notin),notin=in,in,!inn").matches(labels)


@pytest.mark.parametrize(
    ("selector", "reason"),
    [
        ("=web", 'expected a label\'s key at its start, not "="'),
        (",app", 'expected a label\'s key at its start, not ","'),
        ("app,", 'expected a label\'s key after ",", not its end'),
        ("app,,tier", 'expected a label\'s key after ",", not ","'),
        ("app web", 'expected "=", "!=", "in" or "notin" after "app", not "web"'),
        ("app=web tier", 'expected "," after "web", not "tier"'),
        ("app===web", 'expected a label\'s value after "==", not "="'),
        ("app=(web)", 'expected a label\'s value after "=", not "("'),
        ("!app=web", 'expected "," after "app", not "="'),
        ("!!app", 'expected a label\'s key after "!", not "!"'),
        ("!", 'expected a label\'s key after "!", not its end'),
        ("app in web", 'expected "(" after "in", not "web"'),
        ("app in", 'expected "(" after "in", not its end'),
        ("app in (web", 'expected "," after "web", not its end'),
        ("app in (web db)", 'expected "," after "web", not "db"'),
        ("app in (web))", 'expected "," after ")", not ")"'),
        ("app in (!web)", 'expected a label\'s value after "(", not "!"'),
        ("app=web/1", '"web/1" is no label\'s value'),
        ("app=-web", '"-web" is no label\'s value'),
        (f"app={'a' * 64}", f'"{"a" * 64}" is no label\'s value'),
        ("-app", '"-app" is no label\'s key'),
        ("/app", '"/app" is no label\'s key: "" is no DNS name'),
        ("Example.com/app", '"Example.com/app" is no label\'s key: "Example.com" is no DNS name'),
        ("example.com/", '"example.com/" is no label\'s key'),
        (f"{'a' * 254}/app", f'"{"a" * 254}/app" is no label\'s key: "{"a" * 254}" is no DNS name'),
        ("shard>seven", '"shard" can be compared with an integer only, not with "seven"'),
        ("shard>", '"shard" can be compared with an integer only, not with ""'),
    ],
)
def test_a_mistake_is_named_with_the_piece_that_makes_no_sense(selector: str, reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(selector, "--selector")
    assert str(refused.value) == f"--selector: in {selector!r}: {reason}"
    assert refused.value.hint


def test_a_mistake_reaches_a_terminal_harmless() -> None:
    with pytest.raises(UsageError) as refused:
        parse("app=\x1b[2J")
    assert str(refused.value).isprintable()


def test_a_selector_that_is_too_long_is_refused_without_being_quoted() -> None:
    with pytest.raises(UsageError) as refused:
        parse("a" * (MAX_CHARACTERS + 1))
    assert len(str(refused.value)) < 100


def test_labels_that_are_no_integers_are_greater_and_less_than_none() -> None:
    assert not parse("shard>0").matches({"shard": "9" * 10_000})
    assert not parse("shard<9").matches({"shard": "٣"})


KEYS = st.sampled_from(["app", "tier", "in", "example.com/team"])
VALUES = st.sampled_from(["", "web", "in", "7"])


@given(KEYS, st.lists(VALUES, min_size=1), st.dictionaries(KEYS, VALUES))
def test_in_and_notin_are_opposites_where_the_label_is(
    key: str, values: list[str], labels: dict[str, str]
) -> None:
    listed = ",".join(values)
    within = parse(f"{key} in ({listed})").matches(labels)
    without = parse(f"{key} notin ({listed})").matches(labels)
    assert within is (labels.get(key) in values)
    assert without is not within


@given(st.text(alphabet="ab/=!<>(), \t\n.-in1\x00é", max_size=40))
def test_any_text_is_a_selector_or_a_mistake_of_the_users(text: str) -> None:
    with suppress(UsageError):
        parse(text).matches(WEB)
