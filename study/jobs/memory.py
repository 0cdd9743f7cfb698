"""Give memory back between jobs: a worker lives as long as the study, and its neighbours need room, too."""

import ctypes
import gc
import sys

import torch


def release_memory() -> None:
    """Collect garbage, empty the GPU's cache, and let glibc hand freed pages back to the system."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only; musl has none
        if trim is not None:
            trim(0)
