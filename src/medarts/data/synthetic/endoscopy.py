"""Polyps as in a colonoscopy: red on red, between folds, with vessels and highlights, under a moving camera."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medarts.data.synthetic.shapes import Field, blob_distance, curve, finish, grid, smooth_field, soft


@dataclass(frozen=True, slots=True)
class Scene:
    """What the frames of a sequence share.

    Attributes:
        seed: of the wall and the polyp's outline.
        colour: of the wall.
        centre: (y, x) of the polyp in the first frame.
        drift: (y, x) it moves a frame.
        radius: of the polyp in the first frame.
        contrast: of the polyp's colour to the wall.
    """

    seed: int
    colour: NDArray[np.float64]
    centre: NDArray[np.float64]
    drift: NDArray[np.float64]
    radius: float
    contrast: float


def scene(generator: np.random.Generator) -> Scene:
    """Draws the scene of a sequence."""
    return Scene(
        seed=int(generator.integers(2**31)),
        colour=generator.uniform([0.62, 0.30, 0.22], [0.85, 0.48, 0.36]),
        centre=generator.uniform(0.3, 0.7, 2),
        drift=generator.normal(0, 0.025, 2),
        radius=float(generator.uniform(0.09, 0.24)),
        contrast=float(generator.uniform(-0.05, 0.12)),
    )


def endoscopy(scene: Scene, frame: int, generator: np.random.Generator, size: int) -> tuple[Field, NDArray[np.bool_]]:
    """Returns a frame of a scene, HWC in 0..1, and the mask of its polyp, HW."""
    shared = np.random.default_rng(scene.seed)  # the same wall and outline in every frame
    y, x = grid(size)
    wall = 0.06 * smooth_field(shared, size, scale=0.1) + 0.02 * smooth_field(shared, size, scale=0.02)
    image = scene.colour + wall[..., None] * [1.0, 0.9, 0.8]
    for _ in range(shared.integers(2, 5)):
        fold = np.roll(curve(shared, size, thickness=shared.uniform(0.03, 0.08), bend=0.2), frame, axis=0)
        image = image + 0.16 * (fold - 1.3 * np.roll(fold, size // 16, axis=0))[..., None]
    for _ in range(shared.integers(3, 8)):
        vessel = curve(shared, size, thickness=0.005, bend=shared.uniform(0.02, 0.15))
        image = image - 0.12 * vessel[..., None] * [0.4, 1.0, 1.0]

    centre = np.clip(scene.centre + frame * scene.drift, 0.12, 0.88)
    distance = blob_distance(
        shared,
        size,
        centre=(float(centre[0]), float(centre[1])),
        radius=scene.radius * (1 + 0.04 * frame),
        stretch=shared.uniform(1.0, 1.5),
        angle=shared.uniform(0, np.pi),
        roughness=0.12,
    )
    image = _add_polyp(image, distance, centre, scene, shared)
    light_y, light_x = generator.uniform(0.3, 0.7, 2)
    light = np.exp(-((y - light_y) ** 2 + (x - light_x) ** 2) / generator.uniform(0.25, 0.6))
    image = image * (0.25 + 0.85 * light)[..., None]
    image = _add_highlights(generator, image)
    inside_view = soft(np.maximum(abs(y - 0.5) + abs(x - 0.5) - 0.82, 0.0) * 40 - 1, width=0.3)
    image = finish(generator, image * inside_view[..., None], blur=generator.uniform(0.5, 1.2), noise=0.02)
    return image, distance < 0


def _add_polyp(
    image: Field, distance: Field, centre: NDArray[np.float64], scene: Scene, shared: np.random.Generator
) -> Field:
    """A dome: lit from one side, its edge in shadow, its colour close to the wall's, its surface finer."""
    y, x = grid(len(image))
    inside = soft(distance, width=0.06)
    dome = np.sqrt(np.clip(-distance, 0, 1))
    side = ((x - centre[1]) + (y - centre[0])) / (2 * scene.radius)
    shade = 0.10 * dome - 0.07 * side
    surface = 0.03 * smooth_field(shared, len(image), scale=0.012)
    image = image * (1 - inside[..., None]) + inside[..., None] * (
        scene.colour + scene.contrast * np.array([1.0, 0.7, 0.6])
    )
    image = image + (inside * (shade + surface))[..., None]
    shadow = np.exp(-(((distance - 0.12) / 0.10) ** 2))
    return image - 0.10 * shadow[..., None]


def _add_highlights(generator: np.random.Generator, image: Field) -> Field:
    for _ in range(generator.integers(2, 9)):
        spot = blob_distance(
            generator,
            len(image),
            centre=(generator.uniform(0.1, 0.9), generator.uniform(0.1, 0.9)),
            radius=generator.uniform(0.006, 0.025),
            stretch=generator.uniform(1, 3),
            angle=generator.uniform(0, np.pi),
        )
        image = image + soft(spot, width=0.2)[..., None]
    return image
