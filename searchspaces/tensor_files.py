"""Reads what `torch.save` wrote, without ever running code that a file contains."""

import re
import warnings
import zipfile
from pathlib import Path

from searchspaces.errors import SpaceError

# How files of torch.save before torch 1.6 begin: a pickle of torch's magic number.
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_PICKLE, _ZIP = b"\x80", b"PK"
_TRUSTED = "if you trust its origin, load it there and save its tensors alone, as torch.save(model.state_dict(), path)"
_AGAIN = "copy or download it again and compare the sizes"


def load_tensor_file(path: Path | str) -> object:
    """What a file of `torch.save` holds, on the CPU: tensors, numbers, texts, lists and mappings of them.

    Raises:
        SpaceError: the file is missing, cut short, no PyTorch file, or (maybe) contains code, which is refused.
    """
    import torch

    path = Path(path)
    try:
        stream = path.open("rb")
    except OSError as e:
        raise SpaceError(f"cannot read {path}: {e.strerror}", hint="pass the path of a file of torch.save") from e
    with stream, warnings.catch_warnings():
        # torch recommends settings that are not the user's to change.
        warnings.simplefilter("ignore")
        try:
            return torch.load(stream, map_location="cpu", weights_only=True)
        # Damaged files end in five kinds of errors, among them one of a module that we never import.
        except Exception as e:
            raise _refusal(path, e) from e


def _refusal(path: Path, error: Exception) -> SpaceError:
    """What to say of a file that torch refused; its own texts advise to run the code."""
    with path.open("rb") as stream:
        head = stream.read(len(_LEGACY))
    code = re.search(r"GLOBAL (\S+)", str(error))
    if code is not None:
        return SpaceError(f"{path} contains code ({code[1]}), refused: only tensors are read", hint=_TRUSTED)
    if not head:
        return SpaceError(f"{path} is empty", hint=_AGAIN)
    if _LEGACY.startswith(head) or head.startswith(_LEGACY):
        return SpaceError(f"{path} is cut short or damaged", hint=_AGAIN)
    if head.startswith(_PICKLE):
        return SpaceError(f"{path} is a pickle, which may contain code: refused", hint=_TRUSTED)
    if head.startswith(_ZIP):
        if not zipfile.is_zipfile(path):
            return SpaceError(f"{path} is cut short: the end of the archive is missing", hint=_AGAIN)
        if type(error).__name__ == "UnpicklingError" or "TorchScript" in str(error):
            return SpaceError(f"{path} may contain code: refused, only tensors are read", hint=_TRUSTED)
    return SpaceError(
        f"{path} is no PyTorch file, or damaged ({type(error).__name__})",
        hint="pass a file of torch.save, or copy it again",
    )
