"""The signs of twelve findings on a phantom chest X-ray: what each changes on the film, and where it shows.

A finding that changes the anatomy has a function in ``RESHAPING``, one that adds a shadow has one in ``SHADOWS``;
some have both. All draw where they lie from the generator they are given, and never how strong they are: that
is the severity, 0 (subtle) to 1 (plain).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medarts.data.phantom.chest_anatomy import CENTIMETRE, HILUM, Anatomy, Thorax
from medarts.data.phantom.shapes import Field, smooth_field, soft

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Mass",
    "Nodule",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""Those of ChestX-ray14, in its order, but for Infiltration and Pneumonia, which no sign tells from Consolidation."""

VISIBLE = 0.06
"""Share of the air, or part of the usual attenuation, above which a pixel belongs to the mask of a finding."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """What a finding does to the lungs, HW.

    Attributes:
        opacity: share of the air that it takes, 0..1; negative where it adds air.
        dense: attenuation that it adds beside.
        bare: share of the vessels that it hides, 0..1.
        mask: where it shows.
    """

    opacity: Field
    dense: Field
    bare: Field
    mask: NDArray[np.bool_]


def reshape(anatomy: Anatomy, findings: Mapping[str, float], seed: int) -> Anatomy:
    """Returns the anatomy as the findings change it."""
    for name, change in RESHAPING.items():
        if name in findings:
            anatomy = change(anatomy, findings[name], generator_of(seed, name))
    return anatomy


def generator_of(seed: int, name: str) -> np.random.Generator:
    """Returns the generator of where a finding lies; the same in all films of a patient."""
    return np.random.default_rng([seed, FINDINGS.index(name)])


def _enlarge(anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Anatomy:
    """The cardiothoracic ratio grows by 0.08 to 0.24, mostly to the left."""
    more = 2 * anatomy.width * (0.08 + 0.16 * severity)
    left = generator.uniform(0.68, 0.85)
    right_border, left_border = anatomy.heart
    widest = 0.95 * anatomy.width  # the heart stays within the rib cage
    return replace(anatomy, heart=(right_border + (1 - left) * more, min(widest, left_border + left * more)))


def _inflate(anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Anatomy:
    """Lower and flatter domes, darker lungs, a narrow heart and fewer, thinner vessels."""
    down, flat = 0.035 + 0.055 * severity, 0.45 - 0.35 * severity
    arch = flat * anatomy.arch
    fall = min(down, 0.40 - max(anatomy.domes) - arch)  # the angles stay on the film
    right, left = anatomy.domes
    return replace(
        anatomy,
        domes=(right + fall, left + fall),
        arch=arch,
        heart=(anatomy.heart[0], (0.95 - 0.12 * severity) * anatomy.heart[1]),
        air=anatomy.air * (1.07 + 0.15 * severity + generator.uniform(0, 0.03)),
        calibre=(0.9 - 0.2 * severity) * anatomy.calibre,
        branches=0.8 - 0.45 * severity,
    )


def _collapse(anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Anatomy:
    """The diaphragm of the side of the collapsed lobe rises, the mediastinum moves there."""
    side = int(generator.integers(2))
    rise = 0.015 + 0.06 * severity
    right, left = anatomy.domes
    domes = (right, left - rise) if side else (right - rise, left)
    return replace(anatomy, domes=domes, shift=anatomy.shift + (2 * side - 1) * 0.3 * rise)


def _congest(anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Anatomy:
    """Edema: the vessels are full."""
    return replace(anatomy, calibre=anatomy.calibre * (1.25 + 0.5 * severity + generator.uniform(0, 0.1)))


RESHAPING: Mapping[str, Callable[[Anatomy, float, np.random.Generator], Anatomy]] = {
    "Cardiomegaly": _enlarge,
    "Emphysema": _inflate,
    "Atelectasis": _collapse,
    "Edema": _congest,
}


def _plates(view: Thorax, anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Shadow:
    """Atelectasis: one to three thin plates, nearly level, above the diaphragm that has risen."""
    side = int(generator.integers(2))  # the draw of _collapse
    shade = np.zeros_like(view.y)
    for number in range(generator.integers(1, 4)):
        centre = generator.uniform(0.48, 0.62) * anatomy.width
        height = float(anatomy.dome(centre, side)) - generator.uniform(0.03, 0.05) - 0.045 * number
        half, tilt, bow = generator.uniform(0.05, 0.11), generator.normal(0, 0.18), generator.normal(0, 1.2)
        along = view.x - (2 * side - 1) * centre
        off = view.y - height - tilt * along - bow * along**2
        ends = soft(np.abs(along) - half, width=0.012)
        shade = np.maximum(shade, np.exp(-((off / generator.uniform(0.006, 0.011)) ** 2)) * ends)
    shade = shade * view.lungs
    return _shadow(dense=(0.16 + 0.24 * severity) * shade)


def _fluid(view: Thorax, anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Shadow:
    """Effusion: the angle at the wall is filled; the level rises to the wall as a meniscus."""
    side, both = int(generator.integers(2)), generator.uniform() < 0.35
    depths = [severity, severity * generator.uniform(0.2, 1.0) if both else -1.0]
    opacity = np.zeros_like(view.y)
    for index, depth in zip((side, 1 - side), depths, strict=True):
        if depth < 0:
            continue
        angle = float(anatomy.dome(anatomy.width, index))
        level = angle - (0.03 + 0.30 * depth)
        meniscus = (0.05 + 0.08 * depth) * np.exp(-np.clip(view.wall, 0, None) / 0.045)
        wet = soft(level - meniscus - view.y, width=0.010)
        opacity = np.maximum(opacity, 0.95 * wet * (view.left if index else 1 - view.left))
    return _shadow(opacity=opacity * view.inside, dense=0.16 * opacity * view.inside)


def _mass(view: Thorax, anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Shadow:
    """One round, lobed opacity of 3.2 to 8 cm."""
    centre, outline = _spot(anatomy, generator), _outline(generator)
    radius = 0.5 * CENTIMETRE * (3.2 + 3.2 * severity + generator.uniform(0, 1.6))
    ball = soft(_distance(view, centre, radius, outline), width=0.08) * view.inside
    return _shadow(opacity=(0.45 + 0.4 * severity) * ball, dense=0.04 * ball)


def _nodules(view: Thorax, anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Shadow:
    """One to four round opacities of 1 to 3 cm."""
    opacity = np.zeros_like(view.y)
    for _ in range(generator.integers(1, 5)):
        centre, outline = _spot(anatomy, generator), 0.5 * _outline(generator)
        radius = 0.5 * CENTIMETRE * min(3.0, 1.0 + 1.0 * severity + generator.uniform(0, 1.0))
        opacity = np.maximum(opacity, soft(_distance(view, centre, radius, outline), width=0.15))
    opacity = opacity * view.inside
    return _shadow(opacity=(0.40 + 0.35 * severity) * opacity, dense=0.09 * opacity)


def _rim(view: Thorax, anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Shadow:
    """Pneumothorax: air without vessels along wall and apex, beyond the thin line of the pleura."""
    side = int(generator.integers(2))
    here = view.left if side else 1 - view.left
    top = np.exp(-np.clip(view.y - anatomy.apex, 0, None) / 0.16)
    rim = (0.034 + 0.075 * severity) * (0.45 + 0.9 * top) * (1 + 0.15 * np.sin(14 * view.y + generator.uniform(0, 6)))
    outer = here * view.lungs * soft(view.wall - rim, width=0.004)
    collapsed = here * view.lungs * (1 - soft(view.wall - rim, width=0.004))
    pleura = here * view.lungs * np.exp(-(((view.wall - rim) / 0.006) ** 2))
    opacity = (0.06 + 0.18 * severity) * collapsed - (0.20 + 0.25 * severity) * outer
    mask = (outer > 0.5) | (pleura > 0.3) | (opacity > VISIBLE)
    return Shadow(opacity=opacity, dense=0.18 * pleura, bare=outer, mask=mask)


def _patch(view: Thorax, anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Shadow:
    """Consolidation: a patchy dense area with a soft border in one lobe."""
    centre, outline = _spot(anatomy, generator), _outline(generator)
    radius = generator.uniform(0.075, 0.10) + 0.04 * severity
    area = soft(_distance(view, centre, radius, 1.5 * outline), width=0.22)
    patches = np.clip(0.75 + 0.28 * smooth_field(generator, len(view.y), scale=0.03), 0.25, 1.0)
    side = view.left if centre[1] > 0 else 1 - view.left
    opacity = (0.35 + 0.45 * severity) * area * patches * side * view.lungs
    return _shadow(opacity=opacity, bare=0.6 * opacity)


def _haze(view: Thorax, anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Shadow:
    """Edema: haze on both sides of the hila as the wings of a bat, and short level lines at the bases."""
    across, heights = HILUM
    height = np.where(view.left > 0.5, heights[1], heights[0]) + 0.04
    wings = np.exp(-(((view.across - across - 0.06) / 0.13) ** 2) - ((view.y - height) / 0.17) ** 2)
    cloud = np.clip(1 + 0.22 * smooth_field(generator, len(view.y), scale=0.035), 0.4, 1.5)
    opacity = np.clip((0.26 + 0.36 * severity) * wings * cloud * view.lungs, 0, 0.9)
    rows = np.clip(np.cos(2 * np.pi * view.y / 0.028), 0, 1) ** 2
    kerley = (
        rows * soft(np.abs(view.wall - 0.02) - 0.018, width=0.005) * soft(np.abs(view.floor - 0.1) - 0.06, width=0.01)
    )
    return _shadow(opacity=opacity, dense=0.09 * severity * kerley * view.inside)


def _overinflated(view: Thorax, anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Shadow:
    """Emphysema: the lungs of the changed anatomy, and bullae in its worse forms."""
    opacity = np.zeros_like(view.y)
    for side in (0, 1):
        place = float(anatomy.apex) + generator.uniform(0.07, 0.14)
        across = generator.uniform(0.55, 0.7) * float(anatomy.lateral(place))
        radius = generator.uniform(0.04, 0.07)
        bulla = soft(_distance(view, (place, (2 * side - 1) * across), radius, _outline(generator)), width=0.1)
        opacity = opacity - 0.16 * max(0.0, severity - 0.4) * bulla * view.lungs
    return Shadow(opacity=opacity, dense=np.zeros_like(opacity), bare=-4 * opacity, mask=view.lungs > 0.5)


def _net(view: Thorax, anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Shadow:
    """Fibrosis: a net of fine lines at both bases, densest near the wall."""
    meshes = smooth_field(generator, len(view.y), scale=0.013)
    net = np.exp(-((meshes / 0.42) ** 2))
    reach = 0.12 + 0.14 * severity
    basal = soft((np.clip(view.floor, 0, None) - reach) / reach, width=0.18)
    outer = 0.45 + 0.55 * np.exp(-np.clip(view.wall, 0, None) / 0.10)
    where = basal * outer * view.lungs * (1 - 0.8 * view.heart)
    strength = (0.16 + 0.17 * severity) * where
    return Shadow(
        opacity=0.12 * where,
        dense=strength * net,
        bare=np.zeros_like(net),
        mask=where > 0.25,
    )


def _band(view: Thorax, anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Shadow:
    """Pleural thickening: a band of uneven thickness along the wall of one side, or a cap over both apices."""
    side, cap = int(generator.integers(2)), generator.uniform() < 0.35
    middle, waves = generator.uniform(-0.12, 0.10), generator.uniform(0, 6)
    thickness = (0.022 + 0.032 * severity) * (
        1 + 0.3 * np.sin(25 * view.y + waves) + 0.15 * np.sin(61 * view.y + waves)
    )
    if cap:
        thickness = thickness * 1.6
        extent = soft(view.y - anatomy.apex - 0.10, width=0.012)
    else:
        extent = soft(np.abs(view.y - middle) - generator.uniform(0.10, 0.16), width=0.02)
        extent = extent * (view.left if side else 1 - view.left)
    band = soft(view.wall - thickness, width=0.004) * extent * view.inside
    return _shadow(opacity=0.85 * band, dense=0.16 * band)


def _hernia(view: Thorax, anatomy: Anatomy, severity: float, generator: np.random.Generator) -> Shadow:
    """Hernia: a round pouch behind the heart, air over a level of fluid within a wall."""
    radius = 0.055 + 0.04 * severity + generator.uniform(0, 0.01)
    across = anatomy.shift + generator.uniform(0.03, 0.07)
    centre = (float(anatomy.dome(abs(across), 1)) - 0.55 * radius - 0.01, across)
    distance = _distance(view, centre, radius, 0.5 * _outline(generator))
    pouch = soft(distance, width=0.05)
    level = soft(centre[0] + generator.uniform(0.1, 0.35) * radius - view.y, width=0.006)
    air = soft(distance + 0.14, width=0.05) * (1 - level)
    dense = 0.20 * (pouch - air) - (0.24 + 0.16 * severity) * air
    return _shadow(dense=dense)


SHADOWS: Mapping[str, Callable[[Thorax, Anatomy, float, np.random.Generator], Shadow]] = {
    "Atelectasis": _plates,
    "Effusion": _fluid,
    "Mass": _mass,
    "Nodule": _nodules,
    "Pneumothorax": _rim,
    "Consolidation": _patch,
    "Edema": _haze,
    "Emphysema": _overinflated,
    "Fibrosis": _net,
    "Pleural_Thickening": _band,
    "Hernia": _hernia,
}


def _shadow(*, opacity: Field | None = None, dense: Field | None = None, bare: Field | None = None) -> Shadow:
    """A shadow that shows where it changes the film."""
    parts = [part for part in (opacity, dense, bare) if part is not None]
    none = np.zeros_like(parts[0])
    opacity, dense, bare = (none if part is None else part for part in (opacity, dense, bare))
    return Shadow(opacity=opacity, dense=dense, bare=bare, mask=(opacity > VISIBLE) | (np.abs(dense) > 0.5 * VISIBLE))


def _spot(anatomy: Anatomy, generator: np.random.Generator) -> tuple[float, float]:
    """A place (y, x) within a lung, beside the heart."""
    side, down, out = int(generator.integers(2)), generator.uniform(), generator.uniform(0.25, 0.75)
    y = anatomy.apex + 0.10 + down * (anatomy.domes[side] - 0.05 - anatomy.apex - 0.10)
    inner = min(float(anatomy.border(y, side)), 0.7 * float(anatomy.lateral(y)))
    across = inner + out * (float(anatomy.lateral(y)) - inner)
    return y, (2 * side - 1) * across


def _outline(generator: np.random.Generator) -> NDArray[np.float64]:
    """Fourier terms (cosine, sine) of an irregular outline, orders 2 to 5."""
    terms: NDArray[np.float64] = generator.normal(0, 0.09, (2, 4)) / np.sqrt(np.arange(1, 5))
    return terms


def _distance(view: Thorax, centre: tuple[float, float], radius: float, outline: NDArray[np.float64]) -> Field:
    """How far every pixel is inside (negative) or outside an irregular outline, in radii."""
    dy, dx = view.y - centre[0], view.x - centre[1]
    theta = np.arctan2(dy, dx)
    edge = np.ones_like(theta)
    for order, (cosine, sine) in enumerate(outline.T, start=2):
        edge += cosine * np.cos(order * theta) + sine * np.sin(order * theta)
    distance: Field = np.hypot(dy, dx) / (radius * np.maximum(edge, 0.4)) - 1
    return distance
