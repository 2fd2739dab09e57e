"""Predictions of a profile: one set of samples under all of them, rarely covered experts included."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from helpers.command_line import run
from helpers.tiny_profiles import FORMATS, layer, profile_of
from scantling.common.errors import InputError
from scantling.common.files import file_sha256
from scantling.evaluation.safety.measured_sweep import MeasuredSweep
from scantling.planning.baselines import SAME_BYTES, baselines
from scantling.planning.plan import read_plan
from scantling.planning.program import Program
from scantling.sensitivity.calibration.expert_coverage import FEWEST_TOKENS
from scantling.sensitivity.cross_fit import cross_fit, on_sequences
from scantling.sensitivity.profile import Profile, write_profile
from scantling.sensitivity.profile_record import DomainRecord

OFFERED = list(FORMATS[:3])


def mixture_profile(seed: int, *, num_domains: int = 1) -> Profile:
    """Blocks of experts with random coverage, one of each block rarely covered with samples near zero."""
    generator = np.random.default_rng(seed)
    num_blocks, num_experts, num_samples = 2, int(generator.integers(3, 6)), 4 * num_domains
    layers = []
    for block in range(num_blocks):
        rare = int(generator.integers(num_experts))
        layers.append(layer(f"m.{block}.q_proj", "q_proj", block, (64, 64), OFFERED))
        for number in range(num_experts):
            low, high = (0, FEWEST_TOKENS) if number == rare else (FEWEST_TOKENS, 500)
            tokens = int(generator.integers(low, high))
            kind = f"mlp.experts.{number}.up"
            seen = {"num_rounding_tokens": tokens, "num_pricing_tokens": tokens}
            layers.append(layer(f"m.{block}.{kind}", kind, block, (64, 64), OFFERED, read_share=0.5, **seen))
    layers.append(layer("head", "head", None, (96, 64), ["float16"]))
    profile = profile_of(layers, num_samples=num_samples, seed=seed)
    for index in rare_layers(profile):
        profile.measured_samples[index] *= 1e-4
    if num_domains == 1:
        return profile
    domains = tuple(DomainRecord(name=f"d{k}", text_source="t", text_sha256="0") for k in range(num_domains))
    positions = tuple(k for k in range(num_domains) for _ in range(4))
    return replace(
        profile,
        record=profile.record.model_copy(update={"domains": domains, "domain_of_sequence": positions}),
    )


def rare_layers(profile: Profile) -> list[int]:
    return [
        index
        for index, record in enumerate(profile.record.layers)
        if record.coverage is not None and record.coverage.is_rare
    ]


def random_assignment(profile: Profile, seed: int) -> dict[str, str]:
    generator = np.random.default_rng(seed)
    names = profile.record.formats
    return {record.name: names[generator.choice(record.formats)] for record in profile.record.layers}


@pytest.mark.parametrize("seed", range(20))
def test_a_difference_is_the_difference_of_predictions(seed):
    profile = mixture_profile(seed, num_domains=1 + seed % 3)
    assert rare_layers(profile)
    first, second = random_assignment(profile, seed), random_assignment(profile, seed + 1000)
    difference, error = profile.difference(first, second)
    assert difference == pytest.approx(profile.predict(first)[0] - profile.predict(second)[0], rel=1e-12, abs=1e-15)
    paired = profile.sample_losses_nats(first) - profile.sample_losses_nats(second)
    assert error == pytest.approx(paired.std(ddof=1) / math.sqrt(len(paired)), rel=1e-12)
    assert profile.difference(second, first)[0] == -difference
    assert profile.difference(first, first) == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(10))
def test_predictions_and_programs_rest_on_the_same_samples(seed):
    profile = mixture_profile(seed, num_domains=1 + seed % 2)
    formats = random_assignment(profile, seed)
    losses = profile.sample_losses_nats(formats)
    rows = [profile.prices[i, profile.format_index[formats[name]]] for name, i in profile.layer_index.items()]
    assert losses == pytest.approx(np.sum(rows, axis=0), rel=1e-12)
    predicted, error = profile.predict(formats)
    assert predicted == pytest.approx(losses.mean(), rel=1e-12)
    assert error == pytest.approx(losses.std(ddof=1) / math.sqrt(len(losses)), rel=1e-12)
    instance = Program(profile).limit("average_bits", at_most=8).instance()
    choice = tuple(unit.formats.index(formats[unit.name]) for unit in instance.units)
    assert instance.loss_increase_nats(choice) == pytest.approx(predicted, rel=1e-12)
    measured_only = np.sum(
        [profile.measured_samples[i, profile.format_index[formats[name]]] for name, i in profile.layer_index.items()],
        axis=0,
    )
    assert measured_only.mean() < predicted  # the samples of rarely covered experts say next to nothing


def test_an_unknown_domain_is_predicted_by_the_mean_of_all():
    profile = mixture_profile(3, num_domains=2)
    formats = random_assignment(profile, 3)
    sweep = object.__new__(MeasuredSweep)
    object.__setattr__(sweep, "profile", profile)
    losses = profile.sample_losses_nats(formats)
    assert sweep.predicted(formats, "elsewhere")[0] == pytest.approx(profile.predict(formats)[0], rel=1e-12)
    assert sweep.predicted(formats, "d1")[0] == pytest.approx(losses[4:].mean(), rel=1e-12)


def test_cross_fit_prices_a_plan_with_imputed_experts():
    profile = mixture_profile(5, num_domains=2)
    formats = random_assignment(profile, 5)
    priced = cross_fit(profile, lambda part: formats, num_folds=4)
    assert priced.unseen_nats == pytest.approx(profile.predict(formats)[0], rel=1e-12)
    part = on_sequences(profile, np.arange(profile.num_samples) < 3)
    assert part.num_samples == 3


@pytest.mark.parametrize("seed", range(3))
def test_solve_says_the_saving_that_the_plan_has(tmp_path, seed):
    profile = mixture_profile(seed)
    profile.measured_samples[[index for index, record in enumerate(profile.record.layers) if record.block == 1]] *= 100
    write_profile(profile, tmp_path / "p")
    words = ["solve", tmp_path / "p", "--average-bits", "4.4", "-o", tmp_path / "plan.json", "--no-cross-fit"]
    said = " ".join(run(*words, columns=400).output.split())
    plan = read_plan(tmp_path / "plan.json")
    naive = baselines(profile, plan.formats(), [SAME_BYTES])[0]
    saved = profile.predict(naive.formats)[0] - plan.loss_increase_nats
    found = re.search(r"the plan saves ([0-9.]+)", said)
    assert found is not None
    assert float(found.group(1)) == pytest.approx(saved, rel=0.06)
    raw = sum(
        profile.measured_samples[i, profile.format_index[naive.formats[name]]].mean()
        - profile.measured_samples[i, profile.format_index[plan.formats()[name]]].mean()
        for name, i in profile.layer_index.items()
    )
    assert raw != pytest.approx(saved, rel=0.06)


def test_an_assignment_that_the_profile_does_not_know_is_refused():
    profile = mixture_profile(1)
    formats = random_assignment(profile, 1)
    name = next(iter(formats))
    for wrong in (formats | {name: "int3-g32"}, {key: value for key, value in formats.items() if key != name}):
        with pytest.raises(InputError, match=f"no price for {name}"):
            profile.sample_losses_nats(wrong)
        with pytest.raises(InputError, match=f"no price for {name}"):
            profile.difference(formats, wrong)


def test_a_profile_knows_the_file_that_holds_it(tmp_path):
    made = mixture_profile(2)
    assert made.origin is None
    saved = made.save(tmp_path / "p")
    assert made.origin is None
    loaded = Profile.load(str(tmp_path / "p"))
    assert loaded.origin == saved.origin
    assert loaded.origin is not None
    assert loaded.origin.sha256 == file_sha256(tmp_path / "p")
    assert loaded.record == made.record
    assert np.array_equal(loaded.measured_samples, made.measured_samples, equal_nan=True)
    assert on_sequences(loaded, np.arange(made.num_samples) > 0).origin is None
    loaded.save(tmp_path / "q")
    assert (tmp_path / "p").read_bytes() == (tmp_path / "q").read_bytes()
