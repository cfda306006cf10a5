"""Contract tests that every predictor must pass: subclass and give the fixtures."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hardware.errors import StorageError
from predictors.predictor import CostPredictor
from searchspaces import Architecture, SearchSpace, SpaceError

PredictorLoader = Callable[[Path], CostPredictor]


class PredictorContract(ABC):
    """What the search relies on, whatever the family."""

    @pytest.fixture
    @abstractmethod
    def space(self) -> SearchSpace:
        """The space that the predictor knows; at least 1,000 architectures."""

    @pytest.fixture
    @abstractmethod
    def predictor(self) -> CostPredictor:
        """A fitted predictor of `space`."""

    @pytest.fixture
    @abstractmethod
    def load(self) -> PredictorLoader:
        """Reads what `save` wrote."""

    def test_it_plays_the_role_and_knows_its_space(self, space: SearchSpace, predictor: CostPredictor) -> None:
        assert isinstance(predictor, CostPredictor)
        assert predictor.space_id == space.space_id
        assert predictor.device_id
        assert predictor.unit

    def test_predictions_are_positive_and_inside_their_interval(
        self, space: SearchSpace, predictor: CostPredictor
    ) -> None:
        prediction = predictor.predict(space.sample_many(200, np.random.default_rng(1)))
        assert len(prediction) == 200
        assert (prediction.lower > 0).all()
        assert (prediction.lower <= prediction.mean).all()
        assert (prediction.mean <= prediction.upper).all()
        assert np.isfinite(prediction.upper).all()
        assert 0 < prediction.level < 1
        assert prediction.in_range.dtype == np.bool_

    def test_architectures_and_genomes_give_the_same_answer(self, space: SearchSpace, predictor: CostPredictor) -> None:
        genomes_NG = space.sample_many(20, np.random.default_rng(2))
        by_genome = predictor.predict(genomes_NG)
        by_architecture = predictor.predict(space.architectures(genomes_NG))
        assert (by_genome.mean == by_architecture.mean).all()
        assert (by_genome.upper == by_architecture.upper).all()

    def test_a_row_does_not_depend_on_its_neighbours(self, space: SearchSpace, predictor: CostPredictor) -> None:
        genomes_NG = space.sample_many(30, np.random.default_rng(3))
        forwards, backwards = predictor.predict(genomes_NG), predictor.predict(genomes_NG[::-1])
        np.testing.assert_allclose(forwards.mean, backwards.mean[::-1], rtol=1e-9)
        np.testing.assert_allclose(predictor.predict(genomes_NG[:1]).upper, forwards.upper[:1], rtol=1e-9)

    def test_no_architectures_give_an_empty_answer(self, predictor: CostPredictor) -> None:
        assert len(predictor.predict([])) == 0

    def test_foreign_architectures_and_genomes_are_refused(self, space: SearchSpace, predictor: CostPredictor) -> None:
        foreign = Architecture(space_id="elsewhere", genes=space.smallest.genes)
        with pytest.raises(SpaceError, match="elsewhere"):
            predictor.predict([foreign])
        genomes_NG = space.sample_many(2, np.random.default_rng(4))
        with pytest.raises(SpaceError):
            predictor.predict(genomes_NG[:, :-1])
        with pytest.raises(SpaceError):
            predictor.predict(np.full_like(genomes_NG, 120))

    def test_a_stored_predictor_predicts_bit_for_bit_the_same(
        self, space: SearchSpace, predictor: CostPredictor, load: PredictorLoader, tmp_path: Path
    ) -> None:
        predictor.save(tmp_path / "stored")
        restored = load(tmp_path / "stored")
        genomes_NG = space.sample_many(50, np.random.default_rng(5))
        before, after = predictor.predict(genomes_NG), restored.predict(genomes_NG)
        for name in ("mean", "lower", "upper", "in_range"):
            assert (getattr(before, name) == getattr(after, name)).all(), name
        assert (restored.space_id, restored.device_id, restored.unit) == (
            predictor.space_id,
            predictor.device_id,
            predictor.unit,
        )
        assert restored.scores == predictor.scores

    def test_a_damaged_file_is_refused(self, predictor: CostPredictor, load: PredictorLoader, tmp_path: Path) -> None:
        predictor.save(tmp_path)
        victim = max((path for path in tmp_path.iterdir() if path.is_file()), key=lambda path: path.stat().st_size)
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
        with pytest.raises(StorageError, match=victim.name):
            load(tmp_path)

    def test_proposals_are_new_and_distinct_and_repeatable(self, space: SearchSpace, predictor: CostPredictor) -> None:
        first = predictor.propose(6, rng=np.random.default_rng(6))
        again = predictor.propose(6, rng=np.random.default_rng(6))
        assert first == again
        assert len({arch.arch_id for arch in first}) == 6
        for arch in first:
            space.validate(arch)
        excluded = {arch.arch_id for arch in first}
        others = predictor.propose(6, rng=np.random.default_rng(6), exclude=excluded)
        assert len(others) == 6
        assert not excluded & {arch.arch_id for arch in others}
        assert predictor.propose(0, rng=np.random.default_rng(6)) == []
