from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.decide.patterns import assigned, check_all_match, check_patterns, matches

NAMES = ("encoder.0.weight", "encoder.0.bias", "encoders.weight", "head.weight", "head.bias", "scale")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("encoder.0.weight", ["encoder.0.weight"]),
        ("encoder", ["encoder.0.weight", "encoder.0.bias"]),
        ("encoder.", ["encoder.0.weight", "encoder.0.bias"]),
        ("encoder.0", ["encoder.0.weight", "encoder.0.bias"]),
        ("enc", []),
        ("weight", []),
        ("*.weight", ["encoder.0.weight", "encoders.weight", "head.weight"]),
        ("encoder.?.bias", ["encoder.0.bias"]),
        ("encoder.[0-9].*", ["encoder.0.weight", "encoder.0.bias"]),
        ("*", list(NAMES)),
        ("scale", ["scale"]),
        ("scale.", []),
        ("Head", []),
    ],
)
def test_a_pattern_is_an_exact_name_a_prefix_or_a_glob(pattern, expected):
    assert [name for name in NAMES if matches(pattern, name)] == expected


@given(st.text("ab.", min_size=1, max_size=8), st.text("ab.", min_size=1, max_size=8))
@settings(deadline=None)
def test_without_wildcards_it_is_the_name_or_a_whole_prefix(pattern, name):
    is_prefix = name.startswith(pattern if pattern.endswith(".") else pattern + ".")
    assert matches(pattern, name) == (pattern == name or is_prefix or set(pattern) == {"."} == set(name[:1]))


@given(st.text("ab.*?", min_size=1, max_size=8), st.text("ab.", min_size=1, max_size=8))
@settings(deadline=None)
def test_a_wildcard_means_what_fnmatch_says(pattern, name):
    if set(pattern) & set("*?"):
        assert matches(pattern, name) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize(
    ("patterns", "name", "closest"),
    [
        (["*", "encoder", "encoder.0", "encoder.0.weight"], "encoder.0.weight", "encoder.0.weight"),
        (["*", "encoder", "encoder.0", "encoder.0.weight"], "encoder.0.bias", "encoder.0"),
        (["*", "encoder"], "scale", "*"),
        (["encoder", "*.0.weight"], "encoder.0.weight", "*.0.weight"),  # 9 characters against 8
        (["encoder", "*.weight"], "encoder.0.weight", "encoder"),  # of 8 and 7
        (["head", "*.bias"], "head.bias", "head"),  # 5 and 5: of two as long the prefix
        (["head", "head*"], "head.bias", "head"),
    ],
)
def test_the_most_specific_pattern_wins_whatever_the_order(patterns, name, closest):
    names = [name, *(n for n in NAMES if n != name), "headless", "a.0.weight", "encoder.1.weight"]
    for order in (patterns, patterns[::-1]):
        assert assigned("X", order, names)[0] == closest


def test_what_no_pattern_matches_has_none():
    assert assigned("X", ["head"], NAMES) == (None, None, None, "head", "head", None)


@pytest.mark.parametrize(
    ("pattern", "close"),
    [("encodr.0.weight", "'encoder.0.weight'"), ("haed", "'head'"), ("encoder.0.wieght", "encoder.0.weight")],
)
def test_a_pattern_without_a_match_is_an_error_that_names_close_ones(pattern, close):
    with pytest.raises(ValueError, match=rf"LayerClip: no parameter.*{pattern!r}.*Close: .*{close}"):
        assigned("LayerClip", [pattern, "head"], NAMES)
    with pytest.raises(ValueError, match="no parameter"):
        check_all_match("X", ["zzzzzz"], NAMES)


def test_a_pattern_that_decides_about_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"all that 'head' matches.*'head.bias', 'head.weight'"):
        assigned("X", ["head", "head.weight", "head.bias"], NAMES)


def test_of_a_prefix_and_the_glob_that_says_the_same_one_is_left_out():
    with pytest.raises(ValueError, match=r"all that 'head\.\*' matches.*by 'head'"):
        assigned("X", ["head", "head.*"], NAMES)


def test_two_globs_as_close_are_an_error():
    with pytest.raises(ValueError, match=r"both match 'head.weight', and neither more closely"):
        assigned("X", ["*d.weight", "head.wei*"], [*NAMES, "d.weight", "head.weir"])


@pytest.mark.parametrize(
    ("given_", "error"), [("head", TypeError), (("",), ValueError), ((".",), ValueError)]
)
def test_what_is_no_pattern_is_refused(given_, error):
    with pytest.raises(error, match="expected"):
        check_patterns("X(exclude", given_)
    with pytest.raises(TypeError, match="as text"):
        check_patterns("X(exclude", (1,))
