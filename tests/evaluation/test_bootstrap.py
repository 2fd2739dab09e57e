"""Confidence intervals: against Student's, and by how often they hold what is true."""

import numpy as np
import pytest
from scipy import stats

from scantling.common.errors import ScantlingError
from scantling.evaluation.bootstrap import BlockBootstrap, BootstrapSettings, needed_documents


def test_an_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(3.0, 2.0, 30)
    found = BlockBootstrap(tuple(range(30)), BootstrapSettings(num_resamples=40_000)).mean_interval(values)
    expected = stats.t.interval(0.95, 29, values.mean(), values.std(ddof=1) / np.sqrt(30))
    assert found.estimate == pytest.approx(values.mean())
    assert (found.lower, found.upper) == pytest.approx(expected, abs=0.04)


def test_few_documents_hold_the_true_mean_as_often_as_said():
    """Without the widening 8 documents would hold it in about 88 % of all cases."""
    generator = np.random.default_rng(1)
    hits = 0
    for seed in range(400):
        values = generator.normal(0.0, 1.0, 8)
        found = BlockBootstrap(tuple(range(8)), BootstrapSettings(num_resamples=1500, seed=seed)).mean_interval(values)
        hits += found.lower <= 0.0 <= found.upper
    assert 0.925 <= hits / 400 <= 0.985


def test_documents_are_drawn_whole():
    """Sequences of one document that say the same are one observation, not many."""
    values = np.random.default_rng(2).normal(0.0, 1.0, 12)
    alone = BlockBootstrap(tuple(range(12))).mean_interval(values)
    fivefold = BlockBootstrap(tuple(np.repeat(range(12), 5))).mean_interval(np.repeat(values, 5))
    assert fivefold.model_dump() == pytest.approx(alone.model_dump())
    weights = BlockBootstrap((4, 7, 4, 9, 4)).weights
    assert np.allclose(weights.sum(axis=1), 1)
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert np.array_equal(weights[:, 0], weights[:, 4])
    assert not np.array_equal(weights[:, 0], weights[:, 1])


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(10.0)
    first, again, other = (
        BlockBootstrap(tuple(range(10)), BootstrapSettings(seed=s)).mean_interval(values) for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(("confidence", "needed"), [(0.5, 2), (0.9, 5), (0.95, 6), (0.99, 8), (0.75, 3)])
def test_how_many_documents_a_confidence_takes(confidence, needed):
    assert needed_documents(confidence) == needed
    assert 2 * 0.5**needed <= 1 - confidence + 1e-12 < 2 * 0.5 ** (needed - 1)
    BlockBootstrap(tuple(range(needed)), BootstrapSettings(confidence=confidence)).require_enough()
    with pytest.raises(ScantlingError, match=rf"from {needed - 1} documents, .* which take {needed}"):
        BlockBootstrap(tuple(range(needed - 1)), BootstrapSettings(confidence=confidence)).require_enough()


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 95.0, float("nan")])
def test_what_is_no_confidence(confidence):
    with pytest.raises(ScantlingError, match="between 0 and 1"):
        needed_documents(confidence)


def test_too_few_draws_are_refused():
    with pytest.raises(ScantlingError, match="1000 or more"):
        BlockBootstrap(tuple(range(10)), BootstrapSettings(num_resamples=100)).require_enough()
