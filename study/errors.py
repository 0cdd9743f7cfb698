"""The faults a study can end with; each class carries the exit code of the command line.

Exit codes: 0 done, 1 finished with too many failures, 2 usage, 3 invalid space, 4 environment, 5 resume conflict,
70 internal error, 130/143 interrupted.
"""

from typing import final


class StudyError(Exception):
    """A fault told to the user in one message, without a traceback."""

    exit_code = 70


@final
class StudyFailed(StudyError):
    """The study ran and cannot give a result: too many crashes, or nothing to choose from."""

    exit_code = 1


@final
class SpaceError(StudyError):
    """The search space breaks a rule; the message lists every problem with its place."""

    exit_code = 3


@final
class EnvironmentFault(StudyError):
    """The machine lacks something: data, a checkpoint, disk space, a cluster, or another driver holds the study."""

    exit_code = 4


@final
class ResumeConflict(StudyError):
    """The files of an earlier launch belong to a different study."""

    exit_code = 5


@final
class Interrupted(StudyError):
    """A signal ended the study; the same command continues it."""

    def __init__(self, message: str, exit_code: int = 130, *, is_impatient: bool = False) -> None:
        """Say so.

        Args:
            message: For the user.
            exit_code: 128 and the signal's number.
            is_impatient: Whether a second signal came, so that nothing may take long any more.
        """
        super().__init__(message)
        self.exit_code = exit_code
        self.is_impatient = is_impatient
