"""Patterns against their definition written again by expansion, and patterns that are meant to hurt."""

import fnmatch
import itertools
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scantling.common.errors import InputError
from scantling.common.patterns import Pattern, matching, nearest, shorten

NAMES = [f"model.layers.{b}.{k}" for b in range(12) for k in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")]


def expand(parts):
    """All plain fnmatch patterns of a list whose elements are texts or lists of alternatives."""
    options = [[part] if isinstance(part, str) else [x for p in part for x in expand(p)] for part in parts]
    return ["".join(pick) for pick in itertools.product(*options)]


def write(parts):
    return "".join(part if isinstance(part, str) else "{" + ",".join(write(p) for p in part) + "}" for part in parts)


atoms = st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]", "[a-b]", "."])
trees = st.recursive(
    st.lists(atoms, max_size=3),
    lambda inner: st.lists(atoms | st.lists(inner, min_size=1, max_size=3), max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(trees, st.text("ab.c", max_size=6))
def test_a_pattern_means_what_its_expansion_means(parts, name):
    text = write(parts)
    if not text:
        return
    assert Pattern(text).matches(name) == any(fnmatch.fnmatchcase(name, plain) for plain in expand(parts))


@pytest.mark.parametrize("low", range(0, 13, 4))
@pytest.mark.parametrize("high", range(8, 120, 37))
def test_ranges_are_of_whole_numbers(low, high):
    if high < low:
        return
    pattern = Pattern(f"layers.{{{low}..{high}}}.*")
    matched = [n for n in range(150) if pattern.matches(f"layers.{n}.mlp")]
    assert matched == list(range(low, high + 1))
    assert not pattern.matches(f"layers.0{high}.mlp")


def test_ranges_stand_beside_other_alternatives():
    pattern = Pattern("x{0..2,7,b{3..4}}")
    assert [name for name in ("x0", "x1", "x2", "x3", "x7", "xb3", "xb4", "xb5", "x") if pattern.matches(name)] == [
        *("x0", "x1", "x2", "x7", "xb3", "xb4")
    ]
    assert Pattern("a{0..}").matches("a0..")  # no range: text


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "0 characters"),
        ("a" * 1001, "1,001 characters"),
        ("{a,b", "not closed"),
        ("a}b", r"write \[}\]|Write \[}\]"),
        ("[ab", "not closed"),
        ("[z-a]", "not a range"),
        ("{3..1}", "is empty"),
        ("{0..99999}", "more than 10,000 numbers"),
        ("{0..9000}{0..9000}", "more than 10,000 numbers"),
        ("{" * 21 + "a" + "}" * 21, "more than 20 deep"),
        ("{" * 900, "more than 20 deep"),
    ],
)
def test_a_pattern_that_is_not_well_formed_is_refused(text, match):
    with pytest.raises(InputError, match=match):
        Pattern(text)


@pytest.mark.parametrize(
    "text", ["{a,b}" * 200, "*a" * 400 + "b", "{*,*a}" * 150, "{{*,a},{a,*}}" * 70, "{0..999}" * 10, "{,a}" * 250]
)
def test_no_pattern_takes_long(text):
    start = time.perf_counter()
    pattern = Pattern(text)
    for length in (10, 100, 1000):
        pattern.matches("a" * length)
    assert time.perf_counter() - start < 5


def test_twenty_thousand_names_are_matched_at_once():
    names = [f"model.layers.{b}.mlp.experts.{e}.up_proj" for b in range(50) for e in range(400)]
    start = time.perf_counter()
    assert len(matching(["model.layers.{0..9}.mlp.experts.*"], names)) == 4000
    assert time.perf_counter() - start < 5


def test_matching_gives_positions_once_and_in_order():
    assert matching(["*.v_proj", "*.1.*"], NAMES[:6]) == [1, 3, 4, 5]


def test_a_pattern_that_matches_nothing_names_the_nearest():
    with pytest.raises(InputError, match=r"matches no layer\. The nearest: model\.layers\.0\.self_attn\.v_proj"):
        matching(["*.self_atn.v_proj"], NAMES)
    with pytest.raises(InputError, match="mlp"):
        matching(["mlp"], NAMES)
    assert len(nearest("zzz", NAMES)) == 3
    assert nearest("x", []) == []


@settings(max_examples=200, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 12), st.sampled_from(["a", "b.c", ""]), st.integers(0, 3)), min_size=1))
def test_shortened_names_match_exactly_what_they_stand_for(chosen):
    universe = [f"m.{x}.{k}.{y}" for x in range(14) for k in ("a", "b.c", "") for y in range(5)]
    universe += ["head", "m.7", "embed_tokens"]
    names = sorted(["head", "m.7", *(f"m.{x}.{k}.{y}" for x, k, y in chosen)])
    written = shorten(names)
    patterns = re.split(r", ", written)
    assert [universe[i] for i in matching(patterns, universe)] == sorted(names, key=universe.index)
