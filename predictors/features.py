"""What a latency predictor sees of an architecture.

The time of a network is close to the sum of the times of its operators, and the time of an operator to a fixed
overhead plus something that grows with its arithmetic and its traffic. So the features are sums over operators, at
several grains: all operators of a kind, of a kind in a stage, of a slot; and the bare choices.

Letters: N architectures, S operator slots, B columns of a block.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictors.operator_sums import OperatorSums
from predictors.prediction import FloatArray
from predictors.predictor import CostPredictor
from searchspaces import OpTable, SearchSpace
from searchspaces.gene_names import RESOLUTION

# Counts up whenever the meaning of a column changes: a stored predictor of another version is refused.
FEATURES_VERSION = 2

_POPULATION = 1024
_LIVE = "live-"
FUNCTION = "function-"
NUM_COUNTS = 5

# Features by name of the block, each (N, B), not standardised.
Blocks = Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFeatures:
    """Features of the architectures of one space.

    Blocks: "totals" (operators, MACs, params, elements read, elements written), the same five by "kinds" and by
    "stages" (kind and stage); "shapes" (by kind, sums of what makes equal MACs differently fast: MACs per output
    element, and square roots, which tell many small operators from few large ones); "choices" (one-hot). In spaces
    whose networks may hold operators that nobody uses, all of them again as "live-..." without these: compilers leave
    them out. "function-..." is what accuracy alone depends on, the space's `path_features`. With sources also
    "sources-mean" and "sources": what the other devices' predictors say of the architecture, as standardised
    logarithms, their mean and how far each is from it.

    Attributes:
        space: the architectures' space.
        sources: predictors of the same space on other devices.
    """

    space: SearchSpace
    sources: tuple[CostPredictor, ...] = ()

    def encode(self, genomes_NG: npt.NDArray[np.int8], *, said_NS: FloatArray | None = None) -> Blocks:
        """Features of N architectures given as genomes.

        Args:
            genomes_NG: which architectures.
            said_NS: logarithms of what the S sources say of them, if not what they predict.

        Raises:
            SpaceError: an array that is not of this space's genomes.
        """
        canonical_NG = self.space.canonicalise(genomes_NG)
        blocks = self._own(canonical_NG)
        if self.space.has_unused:
            live = self._own(self.space.functional(canonical_NG))
            blocks |= {f"{_LIVE}{name}": block_NB for name, block_NB in live.items()}
        blocks |= {f"{FUNCTION}{name}": block_NB for name, block_NB in self.space.path_features(canonical_NG).items()}
        if not self.sources:
            return blocks
        return {**blocks, **self._say_of(_logs(self.sources, canonical_NG) if said_NS is None else said_NS)}

    def _own(self, canonical_NG: npt.NDArray[np.int8]) -> dict[str, FloatArray]:
        """The blocks of the operators and choices."""
        layout = feature_layout(self.space)
        sums_NC = layout.sums.of(canonical_NG)
        stages_NC, shapes_NC = sums_NC[:, : layout.num_stages], sums_NC[:, layout.num_stages :]
        kinds_NC = stages_NC @ layout.kind_of_stage
        return {
            "totals": kinds_NC.reshape(len(kinds_NC), NUM_COUNTS, len(kinds_NC.T) // NUM_COUNTS).sum(axis=2),
            "kinds": kinds_NC,
            "shapes": shapes_NC,
            "stages": stages_NC,
            "choices": self.space.encode_many(canonical_NG).astype(np.float64),
        }

    def _say_of(self, said_NS: FloatArray) -> Blocks:
        """The blocks of the sources."""
        center_S, deviation_S = _source_scales(self.space, self.sources)
        standard_NS = (said_NS - center_S) / deviation_S
        mean_N1 = standard_NS.mean(axis=1, keepdims=True)
        return {"sources-mean": mean_N1, "sources": standard_NS - mean_N1}

    def resolution_columns(self) -> npt.NDArray[np.intp]:
        """Columns of "choices" that are the resolutions, ascending; none if there is only one anyway."""
        start = 0
        for choice in self.space.choices:
            if choice.name == RESOLUTION:
                return np.arange(start, start + len(choice.values))
            start += len(choice.values)
        return np.arange(0)

    def population(self) -> Blocks:
        """Features of architectures that stand for the whole space; the same ones at every call."""
        return _population(self.space, self.sources)

    def signature(self) -> str:
        """Checksum of what the columns mean: version, choices, slots, and the costs of two fixed architectures."""
        ends_NG = self.space.genomes([self.space.smallest, self.space.largest])
        table = self.space.op_table(ends_NG)
        content = {
            "version": FEATURES_VERSION,
            "choices": self.space.feature_names,
            "slots": list(zip(table.names, table.kinds, table.stages, strict=True)),
            "costs": [count_NS.tolist() for count_NS in _counts(table)],
        }
        if paths := self.space.path_features(ends_NG):
            content["paths"] = {name: path_NB.tolist() for name, path_NB in paths.items()}
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=8)
def _population(space: SearchSpace, sources: tuple[CostPredictor, ...]) -> Blocks:
    return LatencyFeatures(space=space, sources=sources).encode(_population_genomes(space))


@functools.lru_cache(maxsize=8)
def _source_scales(space: SearchSpace, sources: tuple[CostPredictor, ...]) -> tuple[FloatArray, FloatArray]:
    said_MS = _logs(sources, _population_genomes(space))
    return said_MS.mean(axis=0), np.maximum(said_MS.std(axis=0), 1e-9)


def _population_genomes(space: SearchSpace) -> npt.NDArray[np.int8]:
    ends_NG = space.genomes([space.smallest, space.largest])
    return np.concatenate([ends_NG, space.sample_many(_POPULATION, np.random.default_rng(0))])


def _logs(sources: Sequence[CostPredictor], genomes_NG: npt.NDArray[np.int8]) -> FloatArray:
    return np.stack([np.log(source.predict(genomes_NG).mean) for source in sources], axis=1)


def of_function(blocks: Blocks) -> Blocks:
    """The same blocks as accuracy depends on them: without operators that nobody uses, and with the paths."""
    own = dict(blocks)
    for prefix in (_LIVE, FUNCTION):
        own |= {name.removeprefix(prefix): block for name, block in blocks.items() if name.startswith(prefix)}
    return own


def take(blocks: Blocks, rows: npt.NDArray[np.intp]) -> Blocks:
    """The same blocks with some of their rows."""
    return {name: block_NB[rows] for name, block_NB in blocks.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureLayout:
    """How the sums of a space's operators become blocks.

    Attributes:
        sums: columns by count and (kind, stage), then by shape and kind.
        num_stages, num_shapes: how many of either sort there are.
        kind_of_stage: (num_stages, counts x kinds), 1.0 where a column belongs to one by kind.
    """

    sums: OperatorSums
    num_stages: int
    num_shapes: int
    kind_of_stage: FloatArray


@functools.lru_cache(maxsize=8)
def feature_layout(space: SearchSpace) -> FeatureLayout:
    """The layout of a space; made once."""
    table = space.op_table(space.genomes([space.smallest]))
    stages = list(dict.fromkeys(zip(table.kinds, table.stages, strict=True)))
    kinds = list(dict.fromkeys(table.kinds))
    slots = list(zip(table.kinds, table.stages, strict=True))
    stage_SK = np.array([[slot == stage for stage in stages] for slot in slots], dtype=np.float64)
    kind_SK = np.array([[slot[0] == kind for kind in kinds] for slot in slots], dtype=np.float64)

    def quantities(table: OpTable) -> list[FloatArray]:
        return [*_counts(table), *_shapes(table)]

    members = [stage_SK] * NUM_COUNTS + [kind_SK] * (len(quantities(table)) - NUM_COUNTS)
    belongs = np.array([[stage[0] == kind for kind in kinds] for stage in stages], dtype=np.float64)
    return FeatureLayout(
        sums=OperatorSums(space, quantities, members=members),
        num_stages=NUM_COUNTS * len(stages),
        num_shapes=sum(member.shape[1] for member in members[NUM_COUNTS:]),
        kind_of_stage=np.kron(np.eye(NUM_COUNTS), belongs).astype(np.float64),
    )


def _counts(table: OpTable) -> list[FloatArray]:
    return [
        array.astype(np.float64)
        for array in (table.present(), table.macs, table.params, table.input_elements, table.output_elements)
    ]


def _shapes(table: OpTable) -> list[FloatArray]:
    present_NS, macs_NS, params_NS, inputs_NS, outputs_NS = _counts(table)
    traffic_NS = inputs_NS + outputs_NS
    intensity_NS = np.log2(1.0 + macs_NS / np.maximum(outputs_NS, 1.0))
    return [
        present_NS * intensity_NS,
        macs_NS * intensity_NS,
        traffic_NS * intensity_NS,
        np.sqrt(macs_NS),
        np.sqrt(params_NS),
        np.sqrt(traffic_NS),
        np.sqrt(macs_NS * traffic_NS),
    ]
