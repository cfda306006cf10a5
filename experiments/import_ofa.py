"""Turns a published once-for-all checkpoint into a supernet directory (`nas import-ofa`)."""

import logging
from dataclasses import dataclass
from pathlib import Path

from hardware.files import sha256_file
from nas.supernet_files import check_vacant, save_supernet
from searchspaces.ofa_checkpoint import import_ofa_checkpoint

_log = logging.getLogger(__name__)
_ORIGIN = "imported from a once-for-all checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedSupernet:
    """What was imported, for the command line to tell.

    Attributes:
        directory: where the supernet lies, as a training checkpoint after no epoch.
        space_id: its space.
        num_classes: classes of its classifier.
        num_tensors, num_elements: parameters and running statistics that were copied.
        ignored_keys: keys of the file that have no use here.
        source_sha256: checksum of the file.
    """

    directory: Path
    space_id: str
    num_classes: int
    num_tensors: int
    num_elements: int
    ignored_keys: tuple[str, ...]
    source_sha256: str


def import_ofa(checkpoint: Path, *, space: str, out: Path) -> ImportedSupernet:
    """Read a once-for-all checkpoint and write it as a supernet directory.

    Args:
        checkpoint: the published file.
        space: one of the `ofa-...` spaces.
        out: a new or empty directory.

    Raises:
        SpaceError: the file is missing, damaged, contains code or does not fit the space; nothing is written.
        RunError: `out` is in use.
        StorageError: `out` cannot be written.
    """
    check_vacant(out)
    imported = import_ofa_checkpoint(checkpoint, space_id=space)
    if imported.prefix:
        _log.warning("all keys of %s begin with %r (DataParallel): it was cut off", checkpoint, imported.prefix)
    source_sha256 = sha256_file(checkpoint)
    save_supernet(
        out,
        imported.supernet,
        space=space,
        space_settings={},
        provenance={"origin": _ORIGIN, "file": checkpoint.name, "sha256": source_sha256},
    )
    return ImportedSupernet(
        directory=out,
        space_id=imported.supernet.space.space_id,
        num_classes=imported.supernet.num_classes,
        num_tensors=imported.num_tensors,
        num_elements=imported.num_elements,
        ignored_keys=imported.ignored_keys,
        source_sha256=source_sha256,
    )
