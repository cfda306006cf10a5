"""IDX files, the format of MNIST and its relatives: a big-endian header, then unsigned bytes; mostly gzipped.

Source: Y. LeCun, "The MNIST database", section "file formats".
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.errors import DataError

_UNSIGNED_BYTES = 0x08
_LARGEST_BYTES = 512 * 1024 * 1024  # ten times the largest file of this kind; a gzip bomb stops here


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, gzipped (`.gz`) or plain.

    Args:
        path: the file.
        dimensions: 1 for labels (N), 3 for images (N, H, W).

    Returns:
        uint8 array with `dimensions` axes; read-only.

    Raises:
        DataError: missing, unreadable, damaged or truncated, or not an IDX file with that many dimensions.
    """
    hint = f"Delete {path} and fetch it again."
    data = _unpacked(path, hint=hint)
    header_bytes = 4 + 4 * dimensions
    if len(data) < header_bytes:
        raise DataError(f"{path} is truncated: {len(data)} bytes, the header alone has {header_bytes}", hint=hint)
    magic, *shape = struct.unpack(f">{1 + dimensions}I", data[:header_bytes])
    expected_magic = (_UNSIGNED_BYTES << 8) | dimensions
    if magic != expected_magic:
        raise DataError(f"{path} is not the file it should be: magic {magic:#010x}, expected {expected_magic:#010x}",
                        hint=hint)  # fmt: skip
    found, promised = len(data) - header_bytes, int(np.prod(shape, dtype=np.uint64))
    if found != promised:
        sizes = " x ".join(str(size) for size in shape)
        raise DataError(f"{path} is damaged: {found:,} values, its header says {sizes} = {promised:,}", hint=hint)
    return np.frombuffer(data, dtype=np.uint8, offset=header_bytes).reshape(shape)


def _unpacked(path: Path, *, hint: str) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data: bytes = file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError as e:
        raise DataError(f"{path} does not exist", hint="Check data.path in the recipe.") from e
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise DataError(f"{path} is damaged: {e}", hint=hint) from e
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e}", hint="Check the permissions of the file.") from e
    if len(data) > _LARGEST_BYTES:
        raise DataError(f"{path} unpacks to more than {_LARGEST_BYTES:,} bytes", hint=hint)
    return data
