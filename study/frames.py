"""Rows to data frames with numbers as numbers, and frames to what JSON and parquet can hold."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from study.columns import BITS, TEXT, WHOLE


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


def frame_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Make a frame that has at least the given columns, counts and rates as numbers."""
    extra = sorted({str(name) for row in rows for name in row} - set(columns))
    frame = pd.DataFrame(list(rows), columns=[*columns, *extra])
    for name in columns:
        if name in BITS:
            frame[name] = frame[name].eq(True)
        elif name not in TEXT:
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
    for name in frame.columns:
        if name in WHOLE or (str(name).startswith("params_") and _all_whole(frame[name])):
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("Int64")
    return frame


def _all_whole(column: pd.Series) -> bool:
    """Tell whether a column of numbers with gaps, which pandas reads as floats, held integers only."""
    values = column.dropna()
    return (
        pd.api.types.is_numeric_dtype(values)
        and not pd.api.types.is_bool_dtype(values)
        and bool(((values % 1 == 0) & (values.abs() <= 2**53)).all())
    )
