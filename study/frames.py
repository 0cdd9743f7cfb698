"""Data frames to what JSON and parquet can hold."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Give the rows as mappings of plain values."""
    return [{str(name): plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def plain(value: Any) -> Any:
    """Turn a cell into what JSON can hold; missing and not finite become None, whole counts become int."""
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, np.generic):
        return plain(value.item())
    return value


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn columns of mixed kinds into JSON text, which parquet can hold."""
    frame = frame.copy()
    for name in frame.columns:
        kinds = {type(value) for value in frame[name].dropna()}
        if frame[name].dtype == object and (len(kinds) > 1 or kinds & {list, dict}):
            frame[name] = [None if plain(v) is None else json.dumps(v) for v in frame[name]]
    return frame
