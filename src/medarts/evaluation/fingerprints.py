"""What scores were made of, in digits that change with it: times of files tell nothing of runs that were copied."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medarts.data.manifest import Part
from medarts.data.store import ImageStore

DIGITS = 16
_CHUNK = 256
"""Images read at once."""


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """What scores were made of.

    Attributes:
        images: 16 hexadecimal digits of the resized images and their targets, names and patients, in their order.
        weights: 16 of the weights of the network.
    """

    images: str
    weights: str


def of_images(parts: Iterable[tuple[ImageStore, Part]]) -> str:
    """Returns the digits of images as networks see them.

    Args:
        parts: stores, each with the part of it that is looked at.
    """
    digest = hashlib.sha256()
    for store, name in parts:
        part = store.manifest.part(name)
        about = [(sample.domain, sample.key, sample.patient) for sample in part.samples]
        digest.update(json.dumps([about, part.findings, store.images.shape[1:], store.targets.shape[1:]]).encode())
        positions = store.indices(part)
        for start in range(0, len(positions), _CHUNK):
            chosen = positions[start : start + _CHUNK]
            for array in (store.images[chosen], store.targets[chosen]):
                digest.update(array.tobytes())
    return digest.hexdigest()[:DIGITS]


def of_weights(weights: Mapping[str, Tensor]) -> str:
    """Returns the digits of named tensors, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(json.dumps([name, str(tensor.dtype), [*tensor.shape]]).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:DIGITS]
