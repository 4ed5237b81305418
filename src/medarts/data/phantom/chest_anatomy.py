"""Geometry of a phantom chest: rib cage, lungs, diaphragm, heart and vessels, in units of the usual film's height.

x grows to the right of the film, which is the left of the patient, y grows downwards; (0, 0) is the middle of the
usual film. Sides are 0, the right of the patient, and 1, the left.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medarts.data.phantom.shapes import Field, soft

SUMMIT = 0.14
"""Distance of the lungs' tops from the midline."""
CAGE = 0.60
"""Height of the rib cage from the apex to its greatest width."""
CENTIMETRE = 0.024
HILUM = 0.075, (0.0, -0.03)
"""Distance of the hila from the midline; y of the right and of the left one."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What makes the lung fields of a film; some findings change it.

    Attributes:
        apex: y of the lungs' tops.
        width: from the midline to the inner chest wall at the base.
        waist: from the midline to the border of the mediastinum above the heart.
        domes: y of the tops of the (right, left) diaphragm.
        arch: how far the diaphragm falls from its top to the angle at the chest wall.
        heart: from the midline to the (right, left) border of the heart.
        shift: x of the mediastinum.
        air: how much the lungs let through, 1 in the usual patient.
        calibre: thickness of the vessels, 1 in the usual patient.
        branches: share of the vessels that are seen.
    """

    apex: float
    width: float
    waist: float
    domes: tuple[float, float]
    arch: float
    heart: tuple[float, float]
    shift: float = 0.0
    air: float = 1.0
    calibre: float = 1.0
    branches: float = 1.0

    def lateral(self, y: Field | float) -> Field:
        """Returns the distance of the inner chest wall from the midline."""
        t = np.clip((np.asarray(y) - self.apex) / CAGE, 0.0, 1.0)
        wall: Field = SUMMIT + (self.width - SUMMIT) * (1 - (1 - t) ** 2.6) ** 0.50
        return wall

    def medial(self, y: Field | float) -> Field:
        """Returns the distance of the lungs' inner border from the middle of the mediastinum, without the heart."""
        t = np.clip((np.asarray(y) - self.apex) / CAGE, 0.0, 1.0)
        border: Field = self.waist + (SUMMIT - self.waist) * np.clip(1 - t / 0.22, 0, 1) ** 1.6
        return border

    def dome(self, across: Field | float, side: int) -> Field:
        """Returns y of a diaphragm at a distance from the midline."""
        top = 0.45 * self.width
        away = (np.asarray(across) - top) / np.where(np.asarray(across) > top, self.width - top, 1.5 * top)
        level: Field = self.domes[side] + self.arch * np.abs(away) ** 2.4
        return level

    def border(self, y: Field | float, side: int) -> Field:
        """Returns the distance of the border of heart and great vessels from the middle of the mediastinum."""
        y = np.asarray(y)
        if side == 0:
            atrium = (self.heart[0] - self.waist) * np.exp(-(((y - self.domes[0] + 0.08) / 0.13) ** 4))
            return np.asarray(self.waist + atrium)
        knob = 0.026 * np.exp(-(((y + 0.165) / 0.035) ** 2)) + 0.016 * np.exp(-(((y + 0.075) / 0.04) ** 2))
        point = self.domes[1] - 0.005
        rise = np.sin(0.5 * np.pi * np.clip((y + 0.10) / (point + 0.10), 0, 1)) ** 1.35
        fall = np.clip(1 - (np.clip(y - point, 0, None) / 0.10) ** 2, 0, 1)
        return np.asarray(self.waist + knob + (self.heart[1] - self.waist) * rise * fall)


@dataclass(frozen=True, slots=True)
class Thorax:
    """The fields of an anatomy on a film, all HW.

    Attributes:
        y: places of the pixels in the units of the anatomy.
        x: likewise.
        across: distance from the midline.
        left: 1 on the left of the patient, 0 on the right.
        wall: distance from the inner chest wall, positive inside.
        floor: height above the diaphragm.
        inside: 1 in the rib cage above the diaphragm, the mediastinum included.
        heart: 1 within heart and great vessels.
        lungs: 1 in both lungs, also where the heart lies before them.
        air: depth of the air that the beam crosses, 0..1.
    """

    y: Field
    x: Field
    across: Field
    left: Field
    wall: Field
    floor: Field
    inside: Field
    heart: Field
    lungs: Field
    air: Field


def thorax(anatomy: Anatomy, y: Field, x: Field) -> Thorax:
    """Returns the fields of an anatomy at places y, x, both HW."""
    across, beside = np.abs(x), np.abs(x - anatomy.shift)
    left = x > anatomy.shift
    wall = anatomy.lateral(y) - across
    floor = np.where(left, anatomy.dome(across, 1), anatomy.dome(across, 0)) - y
    silhouette = np.where(left, anatomy.border(y, 1), anatomy.border(y, 0)) - beside
    inside = soft(-wall, width=0.004) * soft(-floor, width=0.005) * soft(anatomy.apex - y, width=0.007)
    heart = soft(-silhouette, width=0.005)
    lungs = inside * soft(anatomy.medial(y) - beside, width=0.006)
    depth = 1 - np.exp(-np.clip(wall, 0, None) / 0.06)
    thick = 1 - np.exp(-np.clip(silhouette, 0, None) / 0.06)
    air = anatomy.air * lungs * depth * (1 - heart * (0.42 + 0.45 * thick))
    return Thorax(
        y=y,
        x=x,
        across=across,
        left=left.astype(np.float64),
        wall=wall,
        floor=floor,
        inside=inside,
        heart=heart,
        lungs=lungs,
        air=air,
    )


@dataclass(frozen=True, slots=True)
class Pose:
    """How the patient stands before the film.

    Attributes:
        angle: turned in the plane of the film, radians.
        scale: size on the film.
        shift: (y, x) of the patient from the middle, as parts of the film.
    """

    angle: float
    scale: float
    shift: tuple[float, float]

    def places(self, size: int) -> tuple[Field, Field]:
        """Returns (y, x) of all pixels in the units of the anatomy."""
        v, u = (np.mgrid[:size, :size] + 0.5) / size - 0.5
        v, u = v - self.shift[0], u - self.shift[1]
        cos, sin = np.cos(self.angle) / self.scale, np.sin(self.angle) / self.scale
        return v * cos - u * sin, v * sin + u * cos

    def pixels(self, points: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Returns where points (..., 2) of (x, y) lie on a film of ``size`` pixels, as (x, y) from its corner."""
        cos, sin = self.scale * np.cos(self.angle), self.scale * np.sin(self.angle)
        x, y = points[..., 0], points[..., 1]
        u, v = x * cos - y * sin + self.shift[1], x * sin + y * cos + self.shift[0]
        return size * (np.stack([u, v], -1) + 0.5)


@dataclass(frozen=True, slots=True)
class Lines:
    """Straight pieces of lines.

    Attributes:
        points: their ends as (x, y), N x 2 x 2.
        width: their thickness, N.
        level: their strength, 0..1, N.
    """

    points: NDArray[np.float64]
    width: NDArray[np.float64]
    level: NDArray[np.float64]


def vessels(anatomy: Anatomy, generator: np.random.Generator) -> Lines:
    """Returns the vessels of both lungs: trunks from the hila that fork five times, the finest first."""
    trunks = 8
    side = np.repeat([-1.0, 1.0], trunks)
    angle = np.tile(np.linspace(-1.45, 1.45, trunks), 2) + generator.normal(0, 0.12, 2 * trunks)
    start = np.stack(
        [side * HILUM[0] + anatomy.shift, np.repeat(HILUM[1], trunks) + 0.03 * np.sin(angle)], -1
    ) + generator.normal(0, 0.006, (2 * trunks, 2))
    length = generator.uniform(0.06, 0.09, 2 * trunks) * (1 + 0.5 * np.abs(np.sin(angle)))
    width, level, parts = 0.0125 * anatomy.calibre, 1.0, []
    for _ in range(5):
        seen = generator.uniform(size=len(side)) < anatomy.branches
        for bend in generator.normal(0, 0.16, (2, len(side))):
            angle = angle + bend
            end = start + 0.5 * length[:, None] * np.stack([side * np.cos(angle), np.sin(angle)], -1)
            piece = np.stack([start, end], 1)[seen]
            parts.append(Lines(piece, np.full(len(piece), width), level * generator.uniform(0.5, 1.0, len(seen))[seen]))
            start = end
        fork = generator.uniform(0.2, 0.6, 2 * len(side)) * np.tile([-1.0, 1.0], len(side))
        side, start = np.repeat(side, 2), np.repeat(start, 2, axis=0)
        angle = np.repeat(angle, 2) + fork
        length = np.repeat(length, 2) * generator.uniform(0.6, 0.95, 2 * len(length))
        width, level = 0.74 * width, 0.80 * level
    parts.reverse()
    return Lines(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("points", "width", "level")))


def draw(lines: Lines, pose: Pose, size: int) -> Field:
    """Returns lines on a film, HW in 0..1; later ones lie over earlier ones."""
    fine = 3 * size  # drawn larger, for smooth edges
    picture = Image.new("L", (fine, fine))
    pen = ImageDraw.Draw(picture)
    points = pose.pixels(lines.points, fine)
    pixels = lines.width * pose.scale * fine
    widths = np.maximum(1, np.round(pixels)).astype(int).tolist()
    # a line below one pixel cannot be drawn thinner, but fainter
    fills = np.round(255 * lines.level * np.minimum(1, pixels)).astype(int).tolist()
    for ends, width, fill in zip(points.reshape(-1, 4).tolist(), widths, fills, strict=True):
        pen.line(ends, fill=fill, width=width)
    image: Field = np.asarray(picture.reduce(3), dtype=np.float64) / 255
    return image
