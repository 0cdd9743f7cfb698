"""Give memory back between jobs: a worker lives as long as the study, and its neighbours need room, too."""

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def sparing_what_lives() -> Iterator[None]:
    """Keep `release_memory` in the block to what comes to life there; the modules alone are half a million objects.

    Walking them takes a quarter of a second, as long as a small job.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release_memory() -> None:
    """Collect garbage, empty the GPU's cache, and let glibc hand freed pages back to the system."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only; musl has none
        if trim is not None:
            trim(0)
