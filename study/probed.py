"""What probes measured of each network, read from their outcomes."""

from typing import Any

from study.attacked import outcomes_under, tolerant
from study.ledger import Ledger


def read_probes(ledger: Ledger, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Return the metrics of every complete probe by its model; a specification no longer in force is not shown.

    Args:
        ledger: The study's files.
        problems: Gets a sentence for each probe that measured nothing.
    """
    in_force = (tolerant(lambda: ledger.document("probes/specification.json"), problems) or {}).get("specification")
    found = {}
    for key, outcome in outcomes_under(ledger, "probes", problems):
        metrics = outcome.get("metrics") or {}
        if outcome.get("state") == "COMPLETE":
            if in_force in (None, metrics.get("specification", in_force)):
                model = key.split("/")[1]
                found[model] = {"model": model, **metrics}
        else:
            problems.append(f"{key} measured nothing: {outcome.get('reason')}")
    return found
