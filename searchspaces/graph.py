"""Operators of architectures with their shapes and what they read: what costs, tables and pictures are computed from.

Letters: N architectures, S operator slots, T tensors that an operator reads. A slot is a place in the skeleton that all
architectures of a space share (for example "stage1.block2.depthwise"); an architecture that lacks the operator has
zeros there. Slots stand in the order in which the extracted network runs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

# Numbers of slots whose results are read; below zero: NETWORK_INPUT or NOTHING.
Slots = npt.NDArray[np.int32]
NETWORK_INPUT = -1
NOTHING = -2


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of one architecture. Convolutions and sums include their normalisation and activation.

    Attributes:
        name: slot name.
        kind: "conv", "depthwise", "se" (a squeeze-excite unit), "pool", "linear" or "add".
        stage: elastic stage number from 0, or -1 for stem and head.
        macs: multiply-accumulate operations for one image.
        params: learnable parameters, normalisation included.
        input_elements, output_elements: activation elements read and written for one image.
        workspace_elements: activation elements that live only inside the operator, beside its input and output.
        inputs: names of the operators whose results it reads; "" is the network's input.
    """

    name: str
    kind: str
    stage: int
    macs: int
    params: int
    input_elements: int
    output_elements: int
    workspace_elements: int
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpGraph:
    """The operators of one architecture in the order in which they run."""

    operators: tuple[Operator, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpTable:
    """The operators of many architectures.

    Attributes:
        names, kinds, stages: one entry a slot (S).
        macs, params, input_elements, output_elements, workspace_elements: int64 (N, S), see `Operator`; zero where the
            slot is empty.
        inputs: (N, S, T), the slots whose results each operator reads, all earlier and not empty; `NETWORK_INPUT`, and
            `NOTHING` where it reads fewer than T. A slot that stands there twice is read twice.
        network_input_elements: int64 (N,), elements of one image or series.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    stages: tuple[int, ...]
    macs: Counts
    params: Counts
    input_elements: Counts
    output_elements: Counts
    workspace_elements: Counts
    inputs: Slots
    network_input_elements: Counts

    def present(self) -> npt.NDArray[np.bool_]:
        """Which architecture has which operator, (N, S)."""
        return self.output_elements > 0

    def graph(self, row: int) -> OpGraph:
        """The operators of architecture number `row`."""
        present_S = self.present()[row]
        return OpGraph(
            operators=tuple(
                Operator(
                    name=self.names[s],
                    kind=self.kinds[s],
                    stage=self.stages[s],
                    macs=int(self.macs[row, s]),
                    params=int(self.params[row, s]),
                    input_elements=int(self.input_elements[row, s]),
                    output_elements=int(self.output_elements[row, s]),
                    workspace_elements=int(self.workspace_elements[row, s]),
                    inputs=tuple(
                        "" if source == NETWORK_INPUT else self.names[source]
                        for source in self.inputs[row, s].tolist()
                        if source != NOTHING
                    ),
                )
                for s in np.flatnonzero(present_S)
            )
        )


class OpTableBuilder:
    """Collects slots one by one; every count is an int64 array (N,) that is zero where the slot is empty.

    Args:
        num: number of architectures, N.
        network_input_elements: elements of one image or series.
    """

    def __init__(self, num: int, *, network_input_elements: Counts | int) -> None:
        self._num = num
        self._network_input_elements = np.full(num, network_input_elements, dtype=np.int64)
        self._names: list[str] = []
        self._kinds: list[str] = []
        self._stages: list[int] = []
        self._counts: list[tuple[Counts, ...]] = []
        self._reads: list[list[Slots]] = []
        self._latest: Slots = np.full(num, NETWORK_INPUT, dtype=np.int32)

    @property
    def latest(self) -> Slots:
        """Result of the slot added last (see `add`); the network's input before the first."""
        return self._latest

    def add(
        self,
        name: str,
        *,
        kind: str,
        stage: int,
        macs: Counts | int,
        params: Counts | int,
        input_elements: Counts | int,
        output_elements: Counts | int,
        workspace_elements: Counts | int = 0,
        present: npt.NDArray[np.bool_] | None = None,
        reads: Sequence[Slots] | None = None,
    ) -> Slots:
        """Append a slot.

        Args:
            name: slot name.
            kind: see `Operator`, as the rest up to `workspace_elements`.
            stage: elastic stage.
            macs: multiply-accumulate operations.
            params: learnable parameters.
            input_elements: elements read.
            output_elements: elements written.
            workspace_elements: elements that live only inside.
            present: (N,), which architectures have it; all if None.
            reads: results of earlier slots that it reads; `latest` if None.

        Returns:
            Its result: the slot that later ones read, (N,). Where the slot is empty that is the first thing that it
            would have read, so a chain of slots needs no care for those that are not there.
        """
        reads = [self._latest] if reads is None else reads
        present_N = np.ones(self._num, dtype=np.bool_) if present is None else present
        self._reads.append([np.where(present_N, read_N, NOTHING).astype(np.int32) for read_N in reads])
        passed_N = reads[0]
        for read_N in reads[1:]:
            passed_N = np.where(passed_N == NOTHING, read_N, passed_N)
        self._latest = np.where(present_N, len(self._names), passed_N).astype(np.int32)
        self._names.append(name)
        self._kinds.append(kind)
        self._stages.append(stage)
        mask_N = present_N.astype(np.int64)
        counts = (macs, params, input_elements, output_elements, workspace_elements)
        self._counts.append(tuple(mask_N * count for count in counts))
        return self._latest

    def build(self) -> OpTable:
        """The finished table."""
        macs, params, inputs, outputs, workspaces = (
            np.stack(column, axis=1) for column in zip(*self._counts, strict=True)
        )
        most_reads = max(len(reads) for reads in self._reads)
        # One slot's reads lie together: liveness goes through them slot by slot.
        inputs_STN = np.full((len(self._names), most_reads, self._num), NOTHING, dtype=np.int32)
        for s, reads in enumerate(self._reads):
            for t, read_N in enumerate(reads):
                inputs_STN[s, t] = read_N
        return OpTable(
            names=tuple(self._names),
            kinds=tuple(self._kinds),
            stages=tuple(self._stages),
            macs=macs,
            params=params,
            input_elements=inputs,
            output_elements=outputs,
            workspace_elements=workspaces,
            inputs=np.moveaxis(inputs_STN, 2, 0),
            network_input_elements=self._network_input_elements,
        )
