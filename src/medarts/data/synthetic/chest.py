"""Chest X-rays with several findings at once, simple enough that a small network learns them in minutes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medarts.data.synthetic.shapes import Field, blob_distance, curve, finish, grid, smooth_field, soft

FINDINGS = ("Cardiomegaly", "Effusion", "Mass", "Nodule", "Pneumothorax", "Consolidation")
"""Some of ChestX-ray14, in its order."""

FILMS = (0.36, 0.20, 0.15, 0.12, 0.09, 0.08)
"""Probabilities of 1 to 6 films of a patient."""

_ILL = 0.6  # share of the patients with a finding
_SHARE = 0.3  # probability of each finding in an ill patient
_SEEN = 0.9  # probability that what a patient has shows on one of the films


@dataclass(frozen=True, slots=True)
class Patient:
    """What the films of a patient share.

    Attributes:
        seed: of the anatomy, and of where findings lie.
        female: sex in the table; the films do not show it.
        age: years.
        findings: name of a finding to its severity, 0 (subtle) to 1 (plain).
    """

    seed: int
    female: bool
    age: int
    findings: Mapping[str, float]


def patient(generator: np.random.Generator) -> Patient:
    """Samples a patient."""
    seed, female = int(generator.integers(2**31)), bool(generator.uniform() < 0.45)
    age = int(np.clip(generator.normal(50, 16), 18, 92))
    findings: dict[str, float] = {}
    if generator.uniform() < _ILL:
        while not findings:
            findings = {name: float(generator.uniform(0.2, 1)) for name in FINDINGS if generator.uniform() < _SHARE}
    return Patient(seed, female, age, findings)


def seen(patient: Patient, generator: np.random.Generator) -> dict[str, float]:
    """Samples which of a patient's findings a film shows, and how plainly."""
    return {
        name: float(np.clip(severity + generator.normal(0, 0.1), 0, 1))
        for name, severity in patient.findings.items()
        if generator.uniform() < _SEEN
    }


def chest(patient: Patient, findings: Mapping[str, float], generator: np.random.Generator, size: int) -> Field:
    """Returns a film, HW in 0..1: soft tissue, less the air of the lungs, plus heart, bones and findings.

    Args:
        generator: samples position, exposure and noise; with an equal one two films differ by their findings alone.
    """
    body = np.random.default_rng(patient.seed)
    width, heart = body.uniform(0.135, 0.165), body.uniform(0.09, 0.115)
    heart *= 1.35 + 0.35 * findings["Cardiomegaly"] if "Cardiomegaly" in findings else 1
    y, x = grid(size)
    trunk = soft(np.hypot((x - 0.5) / 0.43, (y - 0.62) / 0.62) - 1, width=0.03)
    sides = [np.hypot((x - centre) / width, (y - 0.46) / 0.34) - 1 for centre in (0.31, 0.69)]
    silhouette = blob_distance(body, size, centre=(0.62, 0.54), radius=heart, stretch=1.25, angle=0.5, roughness=0.05)
    belly = soft(0.74 + 0.25 * (np.abs(x - 0.5) - 0.2) ** 2 - y, width=0.01)
    air = (
        np.maximum(*(soft(side, width=0.05) for side in sides)) * (1 - belly) * (1 - 0.8 * soft(silhouette, width=0.05))
    )
    air, dense = _changed(patient, findings, air, sides)
    vessels = 0.04 * smooth_field(body, size, scale=0.02) * air
    ribs = 0.05 * np.cos(2 * np.pi * (y + 0.35 * (x - 0.5) ** 2) / 0.085) * trunk
    spine = 0.12 * np.exp(-(((x - 0.5) / 0.035) ** 2)) * trunk
    film = 0.62 * trunk - 0.5 * air + ribs + spine + vessels + dense * trunk
    film = ndimage.affine_transform(film, *_position(generator, size), order=1, mode="nearest")
    film = generator.uniform(0.85, 1.1) * film + generator.uniform(0.08, 0.2)
    if generator.uniform() < 0.2:  # a cable on the skin
        film = film + 0.2 * curve(generator, size, thickness=0.006, bend=0.1)
    return finish(generator, film, blur=0.5, noise=0.015)


def _changed(patient: Patient, findings: Mapping[str, float], air: Field, sides: list[Field]) -> tuple[Field, Field]:
    """Returns the air of the lungs as the findings leave it, and the density that they add."""
    size, lungs = len(air), np.clip(air, 0, 1)
    y, _ = grid(size)
    dense = np.zeros_like(air)
    for name, severity in findings.items():
        where = np.random.default_rng([patient.seed, FINDINGS.index(name)])  # the same on all films
        side = int(where.integers(2))
        here = soft(sides[side], width=0.05)
        spot = (where.uniform(0.3, 0.6), (0.3, 0.7)[side] + where.uniform(-0.06, 0.06))
        if name == "Effusion":  # the lower part of one lung is filled
            air = air * (1 - 0.9 * here * soft(0.72 - (0.08 + 0.2 * severity) - y, width=0.015))
        elif name == "Pneumothorax":  # dark air along one wall, beyond a fine line
            edge = sides[side] + 0.22 + 0.2 * severity
            outside = here * (1 - soft(edge, width=0.02)) * soft(y - 0.6, width=0.05)
            air = air + (0.3 + 0.2 * severity) * outside * lungs
            dense = dense + 0.15 * np.exp(-((edge / 0.04) ** 2)) * here * soft(y - 0.6, width=0.05)
        elif name == "Mass":
            mass = blob_distance(where, size, centre=spot, radius=0.07 + 0.03 * severity)
            dense = dense + (0.22 + 0.18 * severity) * soft(mass, width=0.1)
        elif name == "Nodule":
            for shift in where.uniform(-0.1, 0.1, (where.integers(1, 4), 2)) * [1, 0.4]:
                centre = (spot[0] + shift[0], spot[1] + shift[1])
                nodule = blob_distance(where, size, centre=centre, radius=0.028 + 0.008 * severity, roughness=0.05)
                dense = dense + (0.25 + 0.2 * severity) * soft(nodule, width=0.2)
        elif name == "Consolidation":  # a patchy area with a soft border
            area = soft(blob_distance(where, size, centre=spot, radius=0.13, stretch=1.3), width=0.3)
            patches = np.clip(0.8 + 0.3 * smooth_field(where, size, scale=0.03), 0.2, 1.2)
            dense = dense + (0.18 + 0.2 * severity) * area * patches * lungs
    return air, dense


def _position(generator: np.random.Generator, size: int) -> tuple[Field, Field]:
    """Returns the matrix and offset of a small turn, shift and zoom about the middle of the film."""
    angle, scale = generator.normal(0, 0.03), generator.uniform(0.93, 1.05)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    middle = np.full(2, (size - 1) / 2)
    return matrix, middle - matrix @ middle + generator.normal(0, 0.015, 2) * size
