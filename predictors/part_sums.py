"""Sums of an operator table's entries over the parts of many networks at once.

Letters: N architectures, P parts, R combinations of a part's genes, G genes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictors.errors import PredictorError
from predictors.operator_sums import row_numbers
from predictors.operator_table import OperatorTable
from predictors.parts import Part, parts_of
from predictors.prediction import FloatArray
from searchspaces import SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartSums:
    """The entries of a table, arranged by the genes that a part depends on.

    Attributes:
        parts: of the space.
        strides_PG: theirs.
        tables: for each part (R, 3): mean and standard deviation of its entry, and 1; zeros where a network lacks the
            part, NaN where the table has no entry.
    """

    parts: tuple[Part, ...]
    strides_PG: FloatArray
    tables: tuple[FloatArray, ...]

    @classmethod
    def of(cls, table: OperatorTable, *, space: SearchSpace, num_classes: int) -> "PartSums":
        """Arrange a table.

        Raises:
            PredictorError: the table has all parts at no resolution of the space; one that is missing is named.
        """
        parts = parts_of(space, num_classes=num_classes)
        sums = cls(
            parts=parts,
            strides_PG=np.stack([part.strides_G for part in parts]),
            tables=tuple(_rows(part, table) for part in parts),
        )
        missing: dict[int, list[str]] = {size: [] for part in parts for size in part.resolutions_R.tolist()}
        for part, table_R3 in zip(parts, sums.tables, strict=True):
            for row in np.flatnonzero(np.isnan(table_R3[:, 0])):
                missing[int(part.resolutions_R[row])].append(str(part.keys[row]))
        fewest = min(missing, key=lambda size: len(missing[size]))
        if missing[fewest]:
            raise PredictorError(
                f"the operator table of {table.device_id!r} has no entry {missing[fewest][0]!r} at resolution "
                f"{fewest}, and lacks parts of space {space.space_id} at every other one too",
                hint=f"is it a table of another space, or of other than {num_classes} classes? a new one: "
                f"nas devices calibrate {table.device_id} --operators",
            )
        return sums

    def of_genomes(self, genomes_NG: npt.NDArray[np.int8]) -> FloatArray:
        """Sums of the means, sums of the standard deviations and numbers of parts, (N, 3), of canonical genomes.

        Raises:
            PredictorError: the table lacks an entry; its key is named.
        """
        sums_N3 = np.zeros((len(genomes_NG), 3))
        number_PN = row_numbers(self.strides_PG, genomes_NG)
        for table_R3, number_N in zip(self.tables, number_PN, strict=True):
            sums_N3 += table_R3.take(number_N, axis=0, mode="clip")
        if np.isnan(sums_N3[:, 0]).any():
            n = int(np.argmax(np.isnan(sums_N3[:, 0])))
            for part, table_R3, number_N in zip(self.parts, self.tables, number_PN, strict=True):
                row = int(number_N[n])
                if np.isnan(table_R3[row, 0]):
                    raise PredictorError(
                        f"the operator table has no entry {part.keys[row]!r} at resolution {part.resolutions_R[row]}",
                        hint="ask only for architectures of the table's resolutions: lay the space out with these",
                    )
        return sums_N3


def _rows(part: Part, table: OperatorTable) -> FloatArray:
    rows_R3 = np.zeros((len(part.keys), 3))
    for row, (resolution, key) in enumerate(zip(part.resolutions_R.tolist(), part.keys, strict=True)):
        if key is not None:
            entry = table.entries.get(resolution, {}).get(key)
            rows_R3[row] = (np.nan, np.nan, 1.0) if entry is None else (entry.mean, entry.std, 1.0)
    return rows_R3
