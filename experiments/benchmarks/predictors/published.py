"""Published latency tables as genomes of our spaces and one column for each device."""

import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from experiments.errors import DataError
from predictors.prediction import FloatArray
from predictors.selection import is_constant
from searchspaces import SearchSpace, get_space
from searchspaces.fbnet import FBNetSpace
from searchspaces.nasbench201 import NASBench201Space
from searchspaces.ofa_mbconv import OfaMBConvSpace

_COLUMN = "lat_"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyTable:
    """Latencies of N networks of one space on some devices.

    Attributes:
        space: the networks' space.
        genomes_NG: the networks.
        latency: by device, (N,); whatever unit the publication has, the ranks and relative errors do not depend on it.
    """

    space: SearchSpace
    genomes_NG: npt.NDArray[np.int8]
    latency: Mapping[str, FloatArray]

    def problems(self) -> Mapping[str, str]:
        """Columns that are no latencies of these networks, and why."""
        found = {}
        for device, cost_N in self.latency.items():
            if cost_N.shape != (len(self.genomes_NG),):
                found[device] = f"{cost_N.shape} values for {len(self.genomes_NG)} networks"
            elif not (np.isfinite(cost_N) & (cost_N > 0)).all():
                found[device] = (
                    f"{int((~(np.isfinite(cost_N) & (cost_N > 0))).sum())} values are not finite and positive"
                )
            elif is_constant(cost_N):
                found[device] = f"all values are {cost_N[0]:.6g}"
        return found

    def part(self, *, devices: Collection[str], rows: int | None = None) -> "LatencyTable":
        """Some of the devices, and the first rows if there shall be fewer."""
        return LatencyTable(
            space=self.space,
            genomes_NG=self.genomes_NG[:rows],
            latency={device: self.latency[device][:rows] for device in devices},
        )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What goes wrong in reading a published file, in the block, is an error of that file.

    Raises:
        DataError: it is damaged, lacks an array or column, or is of another layout.
    """
    try:
        yield
    except (OSError, zipfile.BadZipFile, ValueError, LookupError, TypeError, AttributeError, EOFError) as e:
        raise DataError(
            f"{path} cannot be read ({type(e).__name__}: {e})", hint="fetch it again, or see its layout"
        ) from e


def read_fbnet(path: Path) -> LatencyTable:
    """`op_idx` (N, 22) into `op_names`, and `lat_*` columns."""
    with readable(path):
        content = _read(path)
        space = get_space("fbnet")
        assert isinstance(space, FBNetSpace)
        names = tuple(str(name) for name in content["op_names"])
        return _table(space, space.genomes_of(content["op_idx"].astype(np.int64), names=names), content)


def read_nasbench201(path: Path) -> LatencyTable:
    """`ops` (N, 6) into `op_names`, and `lat_*` columns."""
    with readable(path):
        content = _read(path)
        space = get_space("nasbench201")
        assert isinstance(space, NASBench201Space)
        values = [str(value) for value in space.choices[0].values]
        place = np.array([values.index(str(name)) for name in content["op_names"]], dtype=np.int8)
        return _table(space, space.canonicalise(place[content["ops"]]), content)


def read_ofa(path: Path) -> LatencyTable:
    """`ks`, `e` (N, 20), `d` (N, 5), `r` (N,), and `lat_*` columns."""
    with readable(path):
        content = _read(path)
        space = get_space("ofa-mobilenetv3-w1.0")
        assert isinstance(space, OfaMBConvSpace)
        return _table(space, _ofa_genomes(space, content, resolutions=content["r"].tolist()), content)


def read_ofa_accuracy(path: Path) -> tuple[OfaMBConvSpace, npt.NDArray[np.int8], FloatArray, FloatArray]:
    """`ks`, `e` (N, 20), `d` (N, 5), `top1` (N,) in percent and `macs` (N,), at 224 pixels.

    Returns:
        The space, genomes, accuracies from 0 to 1, and MACs.
    """
    with readable(path):
        content = _read(path)
        space = get_space("ofa-mobilenetv3-w1.2")
        assert isinstance(space, OfaMBConvSpace)
        genomes_NG = _ofa_genomes(space, content, resolutions=[224] * len(content["top1"]))
        return space, genomes_NG, content["top1"].astype(np.float64) / 100.0, content["macs"].astype(np.float64)


def _ofa_genomes(
    space: OfaMBConvSpace, content: Mapping[str, npt.NDArray[np.generic]], *, resolutions: Sequence[int]
) -> npt.NDArray[np.int8]:
    settings = (content[name].tolist() for name in ("ks", "e", "d"))
    archs = [space.from_ofa(ks=ks, e=e, d=d, resolution=r) for ks, e, d, r in zip(*settings, resolutions, strict=True)]
    return space.genomes(archs)


def _read(path: Path) -> Mapping[str, npt.NDArray[np.generic]]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _table(
    space: SearchSpace, genomes_NG: npt.NDArray[np.int8], content: Mapping[str, npt.NDArray[np.generic]]
) -> LatencyTable:
    columns = {name.removeprefix(_COLUMN): content[name] for name in content if name.startswith(_COLUMN)}
    if not columns:
        raise LookupError(f"no array {_COLUMN}*, the latencies of a device")
    return LatencyTable(
        space=space,
        genomes_NG=genomes_NG,
        latency={name: _numbers(column) for name, column in columns.items()},
    )


def _numbers(column: npt.NDArray[np.generic]) -> FloatArray:
    """NaN for text, so that it counts among a table's problems."""
    try:
        return column.astype(np.float64)
    except (ValueError, TypeError):
        return np.full(column.shape, np.nan)
