"""Contract tests that every search space and supernet must pass: subclass them and give the fixtures."""

import itertools
from abc import ABC, abstractmethod

import numpy as np
import pytest
import torch

from searchspaces.architecture import Architecture
from searchspaces.elastic.supernet import Supernet
from searchspaces.errors import SpaceError
from searchspaces.graph import NOTHING
from searchspaces.space import SearchSpace

_TOLERANCE = 1e-5


class SearchSpaceContract(ABC):
    """What the search relies on, whatever the space."""

    @pytest.fixture
    @abstractmethod
    def space(self) -> SearchSpace:
        """The space under test."""

    @pytest.fixture
    def rng(self) -> np.random.Generator:
        """A fixed source of randomness."""
        return np.random.default_rng(7)

    def test_json_round_trips_exactly(self, space: SearchSpace, rng: np.random.Generator) -> None:
        for arch in (space.smallest, space.largest, *space.architectures(space.sample_many(50, rng))):
            restored = Architecture.from_json(arch.to_json())
            assert restored == arch
            assert restored.arch_id == arch.arch_id
            assert hash(restored) == hash(arch)

    def test_samples_mutations_and_crossovers_are_valid(self, space: SearchSpace, rng: np.random.Generator) -> None:
        parents = space.architectures(space.sample_many(40, rng))
        for a, b in itertools.pairwise(parents):
            mutant = space.mutate(a, rng)
            assert mutant != a
            space.validate(mutant)
            space.validate(space.crossover(a, b, rng))

    def test_genomes_round_trip_and_are_canonical(self, space: SearchSpace, rng: np.random.Generator) -> None:
        genomes_NG = space.sample_many(60, rng)
        assert genomes_NG.dtype == np.int8
        assert (space.canonicalise(genomes_NG) == genomes_NG).all()
        assert (space.genomes(space.architectures(genomes_NG)) == genomes_NG).all()

    def test_one_network_has_one_genome(self, space: SearchSpace, rng: np.random.Generator) -> None:
        genomes_NG = space.mutate_many(space.sample_many(300, rng), rng, probability=0.5)
        ids = {arch.arch_id for arch in space.architectures(genomes_NG)}
        assert len(ids) == len(np.unique(genomes_NG, axis=0))

    def test_encoding_is_one_hot_of_active_genes(self, space: SearchSpace, rng: np.random.Generator) -> None:
        genomes_NG = space.sample_many(30, rng)
        features_NF = space.encode_many(genomes_NG)
        assert features_NF.shape == (30, len(space.feature_names))
        assert features_NF.dtype == np.float32
        assert (features_NF.sum(axis=1) == (genomes_NG >= 0).sum(axis=1)).all()

    def test_smallest_costs_less_than_largest(self, space: SearchSpace) -> None:
        table = space.op_table(space.genomes([space.smallest, space.largest]))
        assert table.params[0].sum() < table.params[1].sum()
        assert table.macs[0].sum() < table.macs[1].sum()

    def test_operators_read_what_earlier_ones_wrote(self, space: SearchSpace, rng: np.random.Generator) -> None:
        genomes_NG = np.concatenate([space.genomes([space.smallest, space.largest]), space.sample_many(50, rng)])
        table = space.op_table(genomes_NG)
        # What can be read: nothing, the network's input, and what each slot wrote.
        nothing_N = np.zeros(len(genomes_NG), dtype=np.int64)
        written_NK = np.column_stack([nothing_N, table.network_input_elements, table.output_elements])
        read_NST = written_NK[np.arange(len(genomes_NG))[:, None, None], table.inputs - NOTHING]
        assert (read_NST.sum(axis=2) == table.input_elements).all()
        assert (read_NST[table.inputs != NOTHING] > 0).all()
        assert (table.inputs < np.arange(len(table.names))[:, None]).all()
        assert (table.inputs[~table.present()] == NOTHING).all()

    def test_the_last_operator_writes_the_classes(self, space: SearchSpace, rng: np.random.Generator) -> None:
        table = space.op_table(space.sample_many(5, rng), num_classes=7)
        assert table.present()[:, -1].all()
        assert (table.output_elements[:, -1] == 7).all()

    def test_a_bad_gene_is_refused_with_its_allowed_values(self, space: SearchSpace) -> None:
        genes = dict(space.smallest.genes)
        name = space.choices[0].name
        with pytest.raises(SpaceError, match=name):
            space.architecture({**genes, name: "nonsense"})
        with pytest.raises(SpaceError, match="no-such-gene"):
            space.architecture({**genes, "no-such-gene": 1})

    def test_an_architecture_of_another_space_is_refused(self, space: SearchSpace) -> None:
        foreign = Architecture(space_id="elsewhere", genes=space.smallest.genes)
        with pytest.raises(SpaceError, match="elsewhere"):
            space.validate(foreign)

    @pytest.mark.parametrize("other", [None, "smallest", {"resolution": 16}])
    def test_what_is_no_architecture_is_refused(self, space: SearchSpace, other: object) -> None:
        with pytest.raises(SpaceError, match=f"expected an Architecture .*, got {type(other).__name__}"):
            space.validate(other)  # type: ignore[arg-type]


class SupernetContract(ABC):
    """What training, evaluation and export rely on, whatever the supernet."""

    num_classes = 5

    @pytest.fixture
    @abstractmethod
    def space(self) -> SearchSpace:
        """The space whose supernet is tested."""

    @pytest.fixture
    def archs(self, space: SearchSpace) -> list[Architecture]:
        """Smallest, largest and some in between."""
        sampled = space.architectures(space.sample_many(8, np.random.default_rng(3)))
        return [space.smallest, space.largest, *sampled]

    def _images(self, space: SearchSpace, arch: Architecture, *, num: int = 2) -> torch.Tensor:
        return torch.randn(num, *space.input_shape(arch), generator=torch.Generator().manual_seed(1))

    def test_extracted_network_equals_forward_in_eval_mode(self, space: SearchSpace, archs: list[Architecture]) -> None:
        supernet = _randomised(space, num_classes=self.num_classes)
        for arch in archs:
            x_NCHW = self._images(space, arch)
            with torch.no_grad():
                inside, outside = supernet(x_NCHW, arch), supernet.extract(arch)(x_NCHW)
            assert inside.shape == (2, self.num_classes)
            assert (inside - outside).abs().max() <= _TOLERANCE * inside.abs().max()

    def test_extracted_network_has_no_code_of_ours_in_its_leaves(self, space: SearchSpace) -> None:
        network = space.build_supernet(num_classes=self.num_classes).extract(space.largest)
        leaves = [module for module in network.modules() if not list(module.children())]
        assert leaves
        assert all(type(leaf).__module__.startswith("torch.nn") for leaf in leaves)

    def test_order_of_evaluation_does_not_change_results(self, space: SearchSpace, archs: list[Architecture]) -> None:
        supernet = _randomised(space, num_classes=self.num_classes)
        with torch.no_grad():
            forwards = [supernet(self._images(space, arch), arch) for arch in archs]
            backwards = [supernet(self._images(space, arch), arch) for arch in reversed(archs)]
        for a, b in zip(forwards, reversed(backwards), strict=True):
            assert torch.equal(a, b)

    def test_training_forward_changes_no_buffer(self, space: SearchSpace, archs: list[Architecture]) -> None:
        supernet = _randomised(space, num_classes=self.num_classes).train()
        before = {name: buffer.clone() for name, buffer in supernet.named_buffers()}
        for arch in archs:
            supernet(self._images(space, arch), arch)
        assert before
        assert all(torch.equal(buffer, before[name]) for name, buffer in supernet.named_buffers())

    def test_batch_of_one_image_works(self, space: SearchSpace) -> None:
        supernet = _randomised(space, num_classes=self.num_classes)
        x_NCHW = self._images(space, space.smallest, num=1)
        assert supernet(x_NCHW, space.smallest).shape == (1, self.num_classes)

    def test_inputs_of_another_shape_are_refused(self, space: SearchSpace) -> None:
        supernet = _randomised(space, num_classes=self.num_classes)
        with pytest.raises(SpaceError, match="takes inputs of shape") as refusal:
            supernet(torch.zeros(1, *(size + 1 for size in space.input_shape(space.smallest))), space.smallest)
        assert "resize" in refusal.value.hint


def _randomised(space: SearchSpace, *, num_classes: int) -> Supernet:
    """A supernet in eval mode whose every weight and statistic is random, so that no mistake hides behind zeros."""
    supernet = space.build_supernet(num_classes=num_classes)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in supernet.named_buffers():
            noise = torch.rand(buffer.shape, generator=generator)
            buffer.copy_(0.5 + noise if name.endswith("var") else noise)
    return supernet.eval()
