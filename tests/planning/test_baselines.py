"""What a plan is put beside: of the same bytes, of the same bits, the nearest that an engine loads."""

import numpy as np
import pytest

from helpers.tiny_profiles import FORMATS, layer, make_profile, profile_of
from scantling.commands.diagnosis import predicted_difference
from scantling.common.errors import ScantlingError
from scantling.evaluation.compare import widths
from scantling.planning.baselines import NEAREST, SAME_BITS, SAME_BYTES, baselines, engines_that_load, uniform_names
from scantling.sensitivity.profile import decided_layers, uniform_formats

PROFILE = make_profile(num_blocks=8)


def random_formats(seed, formats=FORMATS[:3]):
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.ones(len(formats)))
    return uniform_formats(PROFILE, "int4-g32") | {
        record.name: str(generator.choice(formats, p=weights)) for record in decided_layers(PROFILE)
    }


def bits_weights(formats):
    return widths(PROFILE, formats).average


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(("target", "measure"), [(SAME_BYTES, PROFILE.stored_bytes), (SAME_BITS, bits_weights)])
def test_the_naive_plan_is_of_two_neighbours_and_as_large_as_the_plan(seed, target, measure):
    plan = random_formats(seed)
    (found,) = baselines(PROFILE, plan, [target])
    uniforms = sorted((measure(uniform_formats(PROFILE, name)), name) for name in uniform_names(PROFILE))
    used = {found.formats[record.name] for record in decided_layers(PROFILE)}
    if len(used) == 1:
        assert found.name.startswith("uniform ")
        return
    below = max(pair for pair in uniforms if pair[0] <= measure(plan))
    above = min(pair for pair in uniforms if pair[0] > measure(plan))
    assert used == {below[1], above[1]}
    assert measure(found.formats) <= measure(plan)
    largest = max(
        measure(found.formats | {record.name: above[1]}) - measure(found.formats | {record.name: below[1]})
        for record in decided_layers(PROFILE)
    )
    assert measure(found.formats) > measure(plan) - largest
    halves = (decided_layers(PROFILE)[:12], decided_layers(PROFILE)[12:])
    counts = [sum(found.formats[record.name] == above[1] for record in half) for half in halves]
    assert abs(counts[0] - counts[1]) <= 2  # blocks are alike, so even means about as many in either half


def test_a_plan_as_large_as_a_uniform_is_put_beside_it():
    for name in ("int2-g32", "int4-g32", "int8-row"):
        plan = uniform_formats(PROFILE, name)
        (found,) = baselines(PROFILE, plan, [SAME_BYTES, SAME_BITS])
        assert (found.name, found.formats) == (f"uniform {name}", plan)
        assert "bytes +0.00%" in found.describe
        assert "bits +0.00%" in found.describe


def test_a_plan_smaller_than_every_uniform_has_no_naive_counterpart():
    known = ("int2-row", "int4-g32", "int8-row", "float16")
    records = [layer("a", "x", 0, (64, 64), known[:3], known), layer("b", "x", 1, (64, 64), known[1:3], known)]
    profile = profile_of(records, known)
    with pytest.raises(ScantlingError, match=r"as few bytes as the plan.*NAME: int4-g32, int8-row"):
        baselines(profile, {"a": "int2-row", "b": "int4-g32"}, [SAME_BYTES])


@pytest.mark.parametrize("seed", range(12))
def test_the_nearest_uniform_is_one_that_an_engine_loads(seed):
    plan = random_formats(seed)
    found = baselines(PROFILE, plan, [NEAREST])
    size = PROFILE.stored_bytes(plan)
    for baseline in found:
        name = baseline.name.removeprefix("uniform ")
        engines = engines_that_load(PROFILE, baseline.formats)
        assert engines
        assert f"({', '.join(engines)})" in baseline.describe
        side = "largest not above" if PROFILE.stored_bytes(baseline.formats) <= size else "smallest above"
        assert side in baseline.describe
        between = [
            other
            for other in uniform_names(PROFILE)
            if other not in {name, "float16"}
            and min(size, PROFILE.stored_bytes(baseline.formats))
            < PROFILE.stored_bytes(uniform_formats(PROFILE, other))
            < max(size, PROFILE.stored_bytes(baseline.formats))
        ]
        assert not any(engines_that_load(PROFILE, uniform_formats(PROFILE, other)) for other in between)


def test_formats_that_no_engine_loads_are_not_nearest():
    known = ("int5-row", "int6-row", "float16")
    profile = make_profile(formats=known[:2], known=known, kinds={"mlp.up_proj": (40, 72)})
    with pytest.raises(ScantlingError, match=r"no known engine .* loads a uniform format .*Its formats: int5-row"):
        baselines(profile, uniform_formats(profile, "int5-row"), [NEAREST])


def test_what_answers_several_targets_stands_there_once():
    plan = uniform_formats(PROFILE, "int4-g32")
    found = baselines(PROFILE, plan, ["4", SAME_BYTES, NEAREST, "int4-g32"])
    assert [baseline.name for baseline in found] == ["uniform int4-g32", "uniform int8-row"]
    assert found[0].describe.count("int4-g32 in every layer") == 1
    with pytest.raises(ScantlingError, match="no uniform '5'"):
        baselines(PROFILE, plan, ["5"])


def test_widths_are_weighted_by_weights():
    plan = random_formats(2)
    bits = {"int2-g32": 2, "int4-g32": 4, "int8-row": 8}
    found = widths(PROFILE, plan)
    for kind, average in found.by_kind.items():
        chosen = [record for record in decided_layers(PROFILE) if record.kind == kind]
        assert average == pytest.approx(np.mean([bits[plan[record.name]] for record in chosen]))
    total = sum(record.num_weights for record in decided_layers(PROFILE))
    by_block = sum(
        average * sum(record.num_weights for record in decided_layers(PROFILE) if record.block == block)
        for block, average in found.by_block.items()
    )
    assert by_block / total == pytest.approx(found.average)


def test_a_predicted_difference_is_paired():
    first, second = random_formats(3), random_formats(4)
    found, error = predicted_difference(PROFILE, first, second)
    assert found == pytest.approx(PROFILE.predict(first)[0] - PROFILE.predict(second)[0])
    index = PROFILE.format_index
    totals = [
        sum(
            PROFILE.samples[PROFILE.layer_index[name], index[first[name]], sample]
            - PROFILE.samples[PROFILE.layer_index[name], index[second[name]], sample]
            for name in first
        )
        for sample in range(4)
    ]
    assert error == pytest.approx(np.std(totals, ddof=1) / 2)
    assert predicted_difference(PROFILE, first, first) == (0.0, 0.0)
