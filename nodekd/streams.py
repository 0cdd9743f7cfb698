"""Separate random streams by purpose (S7), so that switching one feature on shifts no other draw."""

import hashlib

import torch


def seed_of(seed: int, *purpose: str | int) -> int:
    """Derive the seed of one purpose from a root seed.

    Args:
        seed: Root seed of the run.
        purpose: Words and numbers that name the stream, e.g. `"views", epoch`.

    Returns:
        A 63-bit integer; equal arguments give equal seeds on every machine.
    """
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator for one purpose; the global random state is not touched."""
    stream = torch.Generator(device=device)
    stream.manual_seed(seed_of(seed, *purpose))
    return stream
