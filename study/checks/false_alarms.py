"""How often checks complain of single images in networks that are healthy, as measured once.

Measured on 22 students of digits by `benchmarks/false_alarms.py`; docs/warnings.md shows it.
"""

from collections.abc import Mapping

FALSE_ALARMS: Mapping[str, float] = {
    "A2": 0.01427,
    "A4": 0.00037,
    "A5": 0.00037,
    "A6": 0.03333,
    "A12": 0.01388,
    "A12-spread": 0.02663,
    "S11": 0.00075,
}
"""Share of images by check; a check that is not named complained of none."""
