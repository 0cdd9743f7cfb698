"""Give memory back between jobs: a worker lives as long as the study, and its neighbours need room, too."""

import ctypes
import gc
import sys

import torch


def spare_what_lives() -> None:
    """Keep the next `release_memory` to what comes to life from here on; the modules alone are half a million objects.

    Walking them takes a quarter of a second, as long as a small job.
    """
    gc.freeze()


def release_memory() -> None:
    """Collect garbage, empty the GPU's cache, and let glibc hand freed pages back to the system."""
    gc.collect()
    gc.unfreeze()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only; musl has none
        if trim is not None:
            trim(0)
