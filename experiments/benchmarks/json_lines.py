"""Files of JSON lines that a killed benchmark may leave torn: it goes on from the whole ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, one a line; a torn line is left out. Nothing if there is no file."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="ascii").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def append_line(path: Path, content: Mapping[str, object]) -> None:
    """Add an object, on a line of its own also after a torn one; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="ascii") as file:
        file.write("\n" * torn + json.dumps(content) + "\n")
