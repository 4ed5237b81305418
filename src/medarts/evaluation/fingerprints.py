"""What scores were made of, in digits that change with it: times of files tell nothing of runs that were copied."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medarts.data.manifest import Part
from medarts.data.store import FORMAT, ImageStore

DIGITS = 16


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """What scores were made of.

    Attributes:
        images: 16 hexadecimal digits of the data and of how they are resized.
        weights: 16 of the weights of the network.
        metrics: 16 of what the scores are, in words.
    """

    images: str
    weights: str
    metrics: str


def of_images(parts: Iterable[tuple[ImageStore, Part]]) -> str:
    """Returns the digits of images as networks see them.

    Args:
        parts: stores, each with the part of it that is looked at.

    Raises:
        DataError: a file of the data is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for store, name in parts:
        form = [FORMAT, *store.images.shape[1:], store.truths.shape[1]]
        digest.update(json.dumps([store.manifest.part(name).fingerprint(), form]).encode())
    return digest.hexdigest()[:DIGITS]


def of_metrics(rules: Mapping[str, str]) -> str:
    """Returns the digits of scores that are described in words; scores that meant something else are made again."""
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:DIGITS]


def of_weights(weights: Mapping[str, Tensor]) -> str:
    """Returns the digits of named tensors, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(json.dumps([name, str(tensor.dtype), [*tensor.shape]]).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:DIGITS]
