"""The faults of nodekd: every message names the rule, what was got, where, and what to do."""

from typing import final


class NodekdError(Exception):
    """Root of all faults raised on purpose by this package."""


@final
class DataError(NodekdError):
    """A data set is missing, incomplete, or laid out differently than expected."""


@final
class CheckpointError(NodekdError):
    """Stored weights are missing, unreadable, or do not fit the network."""


@final
class AttackError(NodekdError):
    """An attack was asked for something it cannot do."""
