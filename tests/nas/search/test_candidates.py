"""Candidates: canonical, unseen, and better than random ones."""

import numpy as np
from moocore import is_nondominated

from hardware.cost import analytic_costs
from nas.search.candidates import find_candidates
from predictors.prediction import FloatArray
from searchspaces import get_space
from searchspaces.genomes import Genomes
from tests.nas.search.small_spaces import EIGHTEEN

MACRO = get_space("nas-bench-macro")


def by_counts(genomes_NG: Genomes) -> FloatArray:
    """Few MACs, many parameters: both cannot be had."""
    costs = analytic_costs(MACRO.op_table(genomes_NG))
    return np.column_stack([costs.macs_N, -costs.params_N]).astype(np.float64)


def test_a_small_space_comes_back_whole_but_for_what_is_known() -> None:
    known_NG = EIGHTEEN.genomes([EIGHTEEN.smallest, EIGHTEEN.largest])
    known = {row.tobytes() for row in known_NG}
    found_NG = find_candidates(
        EIGHTEEN, near_NG=known_NG, known=known, optimism=lambda _: np.empty((0, 2)), rng=np.random.default_rng(0)
    )
    assert len(found_NG) == EIGHTEEN.size - 2
    assert not known & {row.tobytes() for row in found_NG}


def test_candidates_are_canonical_unseen_and_each_there_once() -> None:
    rng = np.random.default_rng(0)
    known_NG = MACRO.sample_many(200, rng)
    known = {row.tobytes() for row in known_NG}
    found_NG = find_candidates(MACRO, near_NG=known_NG[:5], known=known, optimism=by_counts, rng=rng)
    rows = [row.tobytes() for row in found_NG]
    assert len(rows) == len(set(rows)) > 500
    assert not known & set(rows)
    assert (MACRO.canonicalise(found_NG) == found_NG).all()


def test_a_space_that_is_known_whole_has_no_candidates() -> None:
    everything_NG = find_candidates(
        EIGHTEEN,
        near_NG=EIGHTEEN.genomes([EIGHTEEN.smallest]),
        known=set(),
        optimism=lambda _: np.empty((0, 2)),
        rng=np.random.default_rng(0),
    )
    left_NG = find_candidates(
        EIGHTEEN,
        near_NG=everything_NG,
        known={row.tobytes() for row in everything_NG},
        optimism=lambda _: np.empty((0, 2)),
        rng=np.random.default_rng(0),
    )
    assert left_NG.shape == (0, len(EIGHTEEN.choices))


def test_the_evolution_comes_nearer_to_the_front_than_chance() -> None:
    start_NG = MACRO.genomes([MACRO.smallest])
    found_NG = find_candidates(MACRO, near_NG=start_NG, known=set(), optimism=by_counts, rng=np.random.default_rng(0))
    random_NG = MACRO.sample_many(len(found_NG), np.random.default_rng(1))
    value_NM = np.concatenate([by_counts(found_NG), by_counts(random_NG)])
    front = is_nondominated(value_NM, keep_weakly=True)
    assert front[: len(found_NG)].sum() > 2 * front[len(found_NG) :].sum()


def test_the_seed_decides_the_candidates() -> None:
    runs = [
        find_candidates(
            MACRO,
            near_NG=MACRO.genomes([MACRO.smallest]),
            known=set(),
            optimism=by_counts,
            rng=np.random.default_rng(seed),
        )
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
