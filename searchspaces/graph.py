"""Operators of architectures with their shapes, as plain data: what costs, tables and pictures are computed from.

Letters: N architectures, S operator slots. A slot is a place in the skeleton that all architectures of a space share
(for example "stage1.block2.depthwise"); an architecture that lacks the operator has zeros there.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of one architecture. Convolutions include their normalisation and activation.

    Attributes:
        name: slot name.
        kind: "conv", "depthwise", "se" (a squeeze-excite unit), "pool", "linear" or "add".
        stage: elastic stage number from 0, or -1 for stem and head.
        macs: multiply-accumulate operations for one image.
        params: learnable parameters, normalisation included.
        input_elements, output_elements: activation elements read and written for one image.
    """

    name: str
    kind: str
    stage: int
    macs: int
    params: int
    input_elements: int
    output_elements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpGraph:
    """The operators of one architecture in the order in which they run."""

    operators: tuple[Operator, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpTable:
    """The operators of many architectures.

    Attributes:
        names, kinds, stages: one entry a slot (S).
        macs, params, input_elements, output_elements: int64 (N, S), see `Operator`; zero where the slot is empty.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    stages: tuple[int, ...]
    macs: Counts
    params: Counts
    input_elements: Counts
    output_elements: Counts

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
                )
                for s in np.flatnonzero(present_S)
            )
        )


class OpTableBuilder:
    """Collects slots one by one; every count is an int64 array (N,) that is zero where the slot is empty."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._names: list[str] = []
        self._kinds: list[str] = []
        self._stages: list[int] = []
        self._counts: list[tuple[Counts, Counts, Counts, Counts]] = []

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
        present: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Append a slot; `present` (N,) says which architectures have it (all by default)."""
        mask = np.ones(self._num, dtype=np.int64) if present is None else present.astype(np.int64)
        self._names.append(name)
        self._kinds.append(kind)
        self._stages.append(stage)
        self._counts.append((mask * macs, mask * params, mask * input_elements, mask * output_elements))

    def build(self) -> OpTable:
        """The finished table."""
        macs, params, inputs, outputs = (np.stack(column, axis=1) for column in zip(*self._counts, strict=True))
        return OpTable(
            names=tuple(self._names),
            kinds=tuple(self._kinds),
            stages=tuple(self._stages),
            macs=macs,
            params=params,
            input_elements=inputs,
            output_elements=outputs,
        )
