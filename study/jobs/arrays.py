"""Arrays of a job as one compressed file that is whole or not there."""

import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays by name, to be read with `numpy.load(path, allow_pickle=False)`; an older file is replaced.

    Args:
        path: The file; its folder is made where it is missing.
        arrays: Numbers, bits or text; no objects.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # on a full disk a part of it must not take the room that is left
