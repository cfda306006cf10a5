"""Published latency tables as genomes of our spaces and one column for each device."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from predictors.prediction import FloatArray
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


def read_fbnet(path: Path) -> LatencyTable:
    """`op_idx` (N, 22) into `op_names`, and `lat_*` columns."""
    content = _read(path)
    space = get_space("fbnet")
    assert isinstance(space, FBNetSpace)
    names = tuple(str(name) for name in content["op_names"])
    return _table(space, space.genomes_of(content["op_idx"].astype(np.int64), names=names), content)


def read_nasbench201(path: Path) -> LatencyTable:
    """`ops` (N, 6) into `op_names`, and `lat_*` columns."""
    content = _read(path)
    space = get_space("nasbench201")
    assert isinstance(space, NASBench201Space)
    values = [str(value) for value in space.choices[0].values]
    place = np.array([values.index(str(name)) for name in content["op_names"]], dtype=np.int8)
    return _table(space, space.canonicalise(place[content["ops"]]), content)


def read_ofa(path: Path) -> LatencyTable:
    """`ks`, `e` (N, 20), `d` (N, 5), `r` (N,), and `lat_*` columns."""
    content = _read(path)
    space = get_space("ofa-mobilenetv3-w1.0")
    assert isinstance(space, OfaMBConvSpace)
    archs = [
        space.from_ofa(ks=ks, e=e, d=d, resolution=r)
        for ks, e, d, r in zip(*(content[name].tolist() for name in ("ks", "e", "d", "r")), strict=True)
    ]
    return _table(space, space.genomes(archs), content)


def _read(path: Path) -> Mapping[str, npt.NDArray[np.generic]]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _table(
    space: SearchSpace, genomes_NG: npt.NDArray[np.int8], content: Mapping[str, npt.NDArray[np.generic]]
) -> LatencyTable:
    columns = {name.removeprefix(_COLUMN): content[name] for name in content if name.startswith(_COLUMN)}
    return LatencyTable(
        space=space,
        genomes_NG=genomes_NG,
        latency={name: column.astype(np.float64) for name, column in columns.items()},
    )
