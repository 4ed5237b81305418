"""Randomness as a function of (seed, place), never of what ran before.

Whatever is random is seeded by where it stands (the stage, epoch and step it belongs to), so that a resumed run
draws the same numbers as an uninterrupted one.
"""

import hashlib

import torch


def seed_of(seed: int, *place: str | int) -> int:
    """Returns a seed, 0 to 2^63 - 1, for a place such as ("weights", epoch, step)."""
    digest = hashlib.blake2b(repr((seed, *place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_torch(seed: int, *place: str | int) -> None:
    """Seeds torch's own generators, which dropout and initialisation draw from."""
    torch.manual_seed(seed_of(seed, *place))
