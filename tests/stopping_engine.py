"""An engine that runs jobs inline, and is interrupted like by Ctrl-C before one of them."""

from study.errors import Interrupted


class StoppingEngine:
    """Is interrupted when so many jobs were handed out; where prefixes are given, so many whose keys begin so."""

    token_command = None

    def __init__(self, after: int, *prefixes: str) -> None:
        self.after = after
        self.prefixes = prefixes or ("",)

    def start(self):
        return None

    def stop(self):
        pass

    def run(self, source, execute):
        while not source.finished and (job := source.next()) is not None:
            if job.key.startswith(self.prefixes):
                if self.after == 0:
                    raise Interrupted("stopped")
                self.after -= 1
            execute(job)
            source.settled(job, None)
