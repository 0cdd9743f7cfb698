"""How often checks complain of single images in networks that are healthy, as measured once.

Measured on 23 students of digits by `benchmarks/false_alarms.py`; docs/warnings.md shows it.
"""

from collections.abc import Mapping

FALSE_ALARMS: Mapping[str, float] = {
    "A2": 0.03058,
    "A3": 0.00035,
    "A4": 0.00035,
    "A6": 0.04778,
    "A10": 0.00035,
    "A12": 0.01661,
    "A12-spread": 0.02521,
    "S11": 0.00346,
}
"""Share of images by check; a check that is not named complained of none."""
