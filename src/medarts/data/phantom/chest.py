"""Chest X-rays, postero-anterior, with several findings at once.

A film shows the attenuation summed along the beam: soft tissue, less the air of the lungs, plus heart, bones and
vessels, through the curve of the film. Findings change the anatomy or add shadows, see ``chest_signs``. The patient's
build, the exposure and things on the skin vary independently of the findings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medarts.data.phantom.chest_anatomy import HILUM, Anatomy, Lines, Pose, Thorax, draw, thorax, vessels
from medarts.data.phantom.chest_signs import (
    FINDINGS,
    RESHAPING,
    SHADOWS,
    VISIBLE,
    Shadow,
    generator_of,
    reshape,
)
from medarts.data.phantom.shapes import Field, soft

__all__ = ["FINDINGS", "Patient", "chest", "chest_patient"]

AIR = 0.74
"""Attenuation that full lungs lack, in that of the middle of the body."""
VESSELS = 0.22
"""Attenuation of the largest vessels."""


@dataclass(frozen=True, slots=True)
class Patient:
    """What the films of a patient share.

    Attributes:
        seed: of the vessels and of where findings lie.
        anatomy: rib cage, lungs and heart without findings.
        female: whether breasts throw a shadow.
        body: half width of the trunk.
        tissue: thickness of the soft tissue before the lungs, as attenuation.
        breast: attenuation of the breasts.
        ribs: distance between ribs.
        slope: of the ribs.
        bone: attenuation of bones, 1 in the usual patient.
        spine: (amplitude, phase) of the curve of the spine.
        age: years.
    """

    seed: int
    anatomy: Anatomy
    female: bool
    body: float
    tissue: float
    breast: float
    ribs: float
    slope: float
    bone: float
    spine: tuple[float, float]
    age: int


def chest_patient(generator: np.random.Generator) -> Patient:
    """Draws a patient."""
    seed, female = int(generator.integers(2**31)), bool(generator.uniform() < 0.45)
    width = float(generator.uniform(0.335, 0.395))
    ratio, left = generator.uniform(0.38, 0.49), generator.uniform(0.66, 0.73)
    right_dome = float(generator.uniform(0.13, 0.22))
    fat = float(generator.uniform())
    return Patient(
        seed=seed,
        anatomy=Anatomy(
            apex=float(generator.uniform(-0.39, -0.34)),
            width=width,
            waist=float(generator.uniform(0.042, 0.06)),
            domes=(right_dome, right_dome + float(generator.uniform(0.01, 0.04))),
            arch=float(generator.uniform(0.07, 0.12)),
            heart=(2 * width * ratio * (1 - left), 2 * width * ratio * left),
            air=float(generator.uniform(0.92, 1.06)),
        ),
        female=female,
        body=width + 0.055 + 0.07 * fat,
        tissue=0.14 * fat,
        breast=float(generator.uniform(0.04, 0.16)) if female else 0.0,
        ribs=float(generator.uniform(0.066, 0.080)),
        slope=float(generator.uniform(0.7, 1.3)),
        bone=float(generator.uniform(0.7, 1.15)),
        spine=(float(generator.normal(0, 0.008)), float(generator.uniform(0, 6))),
        age=int(np.clip(generator.normal(50, 16), 18, 92)),
    )


def chest(
    patient: Patient, findings: Mapping[str, float], generator: np.random.Generator, size: int
) -> tuple[Field, dict[str, NDArray[np.bool_]]]:
    """Returns a film, HW in 0..1, and for every finding the mask, HW, of where it shows.

    With the same patient and an equal generator, two films differ by the signs of their findings alone.

    Args:
        patient: whose film.
        findings: name, of ``FINDINGS``, to severity, 0 (subtle) to 1 (plain). Where a finding lies is the patient's.
        generator: draws pose, exposure, what lies on the skin, and noise.
        size: height and width.
    """
    pose = _pose(generator)
    y, x = pose.places(size)
    turned = replace(patient.anatomy, shift=float(np.clip(generator.normal(0, 0.008), -0.02, 0.02)))
    anatomy = reshape(turned, findings, patient.seed)
    view = thorax(anatomy, y, x)
    shadows = {
        name: SHADOWS[name](view, anatomy, findings[name], generator_of(patient.seed, name))
        for name in FINDINGS
        if name in findings and name in SHADOWS
    }
    air, bare, dense = view.air, np.ones_like(y), np.zeros_like(y)
    for shadow in shadows.values():
        air, bare = air * (1 - shadow.opacity), bare * (1 - np.clip(shadow.bare, 0, 1))
        dense = dense + shadow.dense
    tree = draw(vessels(anatomy, np.random.default_rng(patient.seed)), pose, size)
    body, outline = _soft_tissue(patient, anatomy, view)
    film = body + (dense - AIR * air + _bones(patient, anatomy, view) + _skin(patient, view, generator)) * outline
    film = film + _hila(anatomy, view) + VESSELS * tree * np.clip(air, 0, 1) * bare
    return _develop(film, pose, generator), _masks(shadows, turned, findings, patient.seed, view)


def _pose(generator: np.random.Generator) -> Pose:
    return Pose(
        angle=float(np.clip(generator.normal(0, 0.025), -0.08, 0.08)),
        scale=float(generator.uniform(1.0, 1.18)),
        shift=(
            float(np.clip(generator.normal(0, 0.02), -0.05, 0.05)),
            float(np.clip(generator.normal(0, 0.02), -0.05, 0.05)),
        ),
    )


def _soft_tissue(patient: Patient, anatomy: Anatomy, view: Thorax) -> tuple[Field, Field]:
    """Returns the attenuation of the body as if it had no lungs, and 1 within its outline."""
    neck = 0.12 + 0.15 * patient.tissue
    shoulders = soft(-(view.y + 0.405 - 0.10 * np.clip(view.across - neck, 0, 1)), width=0.016)
    armpit = np.clip((view.y + 0.33) / 0.30, 0, 1)
    trunk = 0.50 + (patient.body - 0.50) * armpit**0.7 + 0.03 * np.clip(view.y - 0.1, 0, 1)
    half = neck + (trunk - neck) * shoulders
    edge = half - view.across
    outline = soft(-edge, width=0.006)
    depth = np.sqrt(np.clip(edge / half, 0, 1))
    arms = (
        0.45
        * soft(0.47 - view.across + 0.12 * np.clip(0.1 - view.y, 0, 1), width=0.008)
        * soft(-view.y - 0.3, width=0.02)
    )
    body = 0.34 + patient.tissue + 0.62 * np.clip(1.15 * depth, 0, 1)
    belly = soft(view.floor, width=0.006) * soft(-(view.wall + 0.02), width=0.03)
    liver = 0.26 * belly * (1 - 0.25 * view.left)
    middle = 0.10 * np.exp(-(((view.x - anatomy.shift) / 0.07) ** 2))
    heart = 0.10 * view.heart * view.inside
    windpipe = -0.16 * np.exp(-((np.clip(np.abs(view.x - anatomy.shift) - 0.010, 0, 1) / 0.007) ** 2))
    windpipe = windpipe * soft(view.y + 0.10, width=0.02)
    breasts = _breasts(patient, view)
    return (body + liver + middle + heart + windpipe + breasts) * outline + arms * (1 - outline), outline


def _breasts(patient: Patient, view: Thorax) -> Field:
    """Two discs with a denser lower rim."""
    if not patient.female:
        return np.zeros_like(view.y)
    radius = 0.13 + 0.3 * patient.breast
    distance = np.hypot(view.across - 0.58 * patient.body, view.y - 0.06) / radius
    low = np.clip((view.y - 0.06) / radius, 0, 1)
    return patient.breast * soft(distance - 1, width=0.04) * (0.3 + 0.9 * low)


def _bones(patient: Patient, anatomy: Anatomy, view: Thorax) -> Field:
    """Spine, ribs behind and before, collar bones, shoulder blades."""
    curve = patient.spine[0] * np.sin(4 * view.y + patient.spine[1])
    discs = 0.7 + 0.3 * np.cos(2 * np.pi * view.y / patient.ribs)
    off = np.abs(view.x - curve)
    spine = (0.13 * discs + 0.05 * np.exp(-(((view.x - curve) / 0.006) ** 2))) * soft(off - 0.036, width=0.004)
    out = np.clip(view.across / np.maximum(view.across + view.wall, 0.05), 0, 1.05)
    arc = patient.slope * (0.09 * out**4 - 0.05 * np.sin(np.pi * np.clip(1.3 * out, 0, 1)))
    cage = soft(-(view.wall + 0.012), width=0.004) * soft(view.y - 0.34, width=0.04)
    behind = _rib(view.y - arc, patient.ribs) * soft(0.10 - out, width=0.03)
    front = _rib(view.y - patient.slope * 0.15 * (1 - out), patient.ribs) * soft(0.38 - out, width=0.05)
    ribs = (0.12 * behind + 0.07 * front) * cage
    q = np.clip((view.across - 0.025) / 0.32, 0, 1.2)
    collar = view.y - anatomy.apex - 0.105 + 0.075 * q - 0.018 * np.sin(2 * np.pi * q)
    clavicle = (
        0.20 * _tube(collar, 0.0145) * soft(0.03 - view.across, width=0.006) * soft(view.across - 0.36, width=0.006)
    )
    blade = view.across - 0.30 - 0.10 * np.clip(view.y + 0.12, -1, 1) ** 2 - 0.05 * np.clip(view.y + 0.2, 0, 1)
    scapula = 0.10 * soft(-blade, width=0.006) * soft(np.abs(view.y + 0.18) - 0.15, width=0.012)
    arm = 0.20 * soft(np.hypot(view.across - 0.46, 1.1 * (view.y + 0.30)) - 0.045, width=0.006)
    return patient.bone * (spine + ribs + clavicle + scapula + arm)


def _rib(height: Field, spacing: float) -> Field:
    """Bands at equal distances, brighter at their edges."""
    return _tube((np.mod(height / spacing, 1) - 0.5) * spacing, 0.215 * spacing)


def _tube(off: Field, half: float) -> Field:
    """A hollow bone as the beam sees it: 1 inside, brighter at its walls."""
    across = np.abs(off)
    tube: Field = soft(across - half, width=0.0025) * (0.75 + 0.5 * np.clip(across / half, 0, 1) ** 4)
    return tube


def _hila(anatomy: Anatomy, view: Thorax) -> Field:
    across, heights = HILUM
    height = np.where(view.left > 0.5, heights[1], heights[0])
    near = ((np.abs(view.x - anatomy.shift) - across) / 0.03) ** 2 + ((view.y - height) / 0.05) ** 2
    hila: Field = 0.13 * anatomy.calibre * np.exp(-near) * view.lungs
    return hila


def _skin(patient: Patient, view: Thorax, generator: np.random.Generator) -> Field:
    """Things that are no finding: nipples, electrodes, gas in stomach and bowel."""
    film = np.zeros_like(view.y)
    nipples, electrodes = generator.uniform() < 0.15, int(generator.integers(1, 4)) * (generator.uniform() < 0.18)
    place = generator.uniform([0.10, 0.5], [0.17, 0.62])
    if nipples:
        spot = np.hypot(view.across - place[1] * patient.body, view.y - place[0])
        film = film + 0.08 * soft(spot - 0.013, width=0.004)
    for centre in generator.uniform([-0.25, -0.3], [0.25, 0.3], (electrodes, 2)):
        spot = np.hypot(view.y - centre[0], view.x - centre[1])
        film = film + 0.22 * soft(spot - 0.016, width=0.003) + 0.4 * soft(spot - 0.006, width=0.003)
    centre = generator.uniform([0.045, 0.10], [0.08, 0.17])
    wide, strength = generator.uniform(0.03, 0.07), generator.uniform(0, 0.35)
    gas = np.hypot((view.x - centre[1]) / wide, (view.floor + centre[0]) / (0.5 * wide)) - 1
    return film - strength * soft(gas, width=0.2) * soft(view.floor + 0.012, width=0.004)


def _develop(film: Field, pose: Pose, generator: np.random.Generator) -> Field:
    """The curve of the film, a marker, the blades' shadow, blur and noise."""
    size = len(film)
    level, contrast = generator.uniform(0.50, 0.72), generator.uniform(3.6, 5.6)
    base = 1 / (1 + np.exp(contrast * level))
    image = (1 / (1 + np.exp(-contrast * (film - level))) - base) / (1 - base)
    image = image * generator.uniform(0.82, 1.0) + generator.uniform(0, 0.05)
    if generator.uniform() < 0.6:
        image = np.maximum(image, 0.9 * draw(_marker(generator), pose, size))
    if generator.uniform() < 0.25:
        dark = int(size * generator.uniform(0.02, 0.07))
        for edge in (image[:dark], image[size - dark :], image[:, :dark], image[:, size - dark :]):
            if generator.uniform() < 0.4:
                edge[:] = 0.02
    blur = ndimage.gaussian_filter(image, size / 64 * generator.uniform(0.25, 0.45))
    grain = generator.uniform(0.006, 0.018) * (0.6 + 0.8 * blur)
    developed: Field = np.clip(blur + grain * generator.standard_normal(blur.shape), 0, 1)
    return developed


def _marker(generator: np.random.Generator) -> Lines:
    """The letter L in a corner of the film, beside the patient's left shoulder."""
    corner = np.array([generator.uniform(0.37, 0.43), generator.uniform(-0.46, -0.41)])
    strokes = np.array([[[0.0, 0.0], [0.0, 0.035]], [[0.0, 0.035], [0.02, 0.035]]])
    return Lines(strokes + corner, np.full(2, 0.007), np.ones(2))


def _masks(
    shadows: Mapping[str, Shadow], usual: Anatomy, findings: Mapping[str, float], seed: int, view: Thorax
) -> dict[str, NDArray[np.bool_]]:
    """Where each finding shows: its shadow, and where the air is other than in the anatomy without it."""
    masks = {}
    for name in findings:
        mask = shadows[name].mask if name in shadows else np.zeros(view.y.shape, dtype=bool)
        if name in RESHAPING:
            others = {other: severity for other, severity in findings.items() if other != name}
            without = thorax(reshape(usual, others, seed), view.y, view.x)
            mask = mask | (np.abs(without.air - view.air) > VISIBLE)
        masks[name] = mask
    return masks
