"""Goes on where nobody reads any more what is printed.

In `python -m study.launch SPACE 2>&1 | tee log`, Ctrl-C ends `tee` as well. The files are what a study is about: it
ends as it would have, with the same exit code.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast, final


@final
class _Outliving:
    """A text stream that drops what is written once its pipe has no reader."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, or drop it."""
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # takes what is buffered, at the interpreter's end as well
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def outliving_readers() -> Iterator[None]:
    """Let both standard streams of the block outlive whoever reads them."""
    before = sys.stdout, sys.stderr
    # One that the caller closed is None, to which Python prints nothing.
    sys.stdout, sys.stderr = (cast("TextIO", stream and _Outliving(stream)) for stream in before)
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = before
