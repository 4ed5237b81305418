"""Skin lesions as through a dermatoscope: brown on pink, with hair, a dark rim, freckles and a soft border."""

import numpy as np
from numpy.typing import NDArray

from medarts.data.synthetic.shapes import Field, blob_distance, curve, finish, grid, smooth_field, soft


def dermoscopy(generator: np.random.Generator, size: int) -> tuple[Field, NDArray[np.bool_]]:
    """Returns an image, HWC in 0..1, and the mask of its lesion, HW."""
    tone = generator.uniform(0, 1)
    skin = (1 - tone) * np.array([0.90, 0.72, 0.64]) + tone * np.array([0.70, 0.50, 0.40])
    texture = 0.03 * smooth_field(generator, size, scale=0.015) + 0.04 * smooth_field(generator, size, scale=0.12)
    image = skin + texture[..., None]

    inside, distance = _lesion(generator, size)
    dark = skin * generator.uniform(0.35, 0.75) * generator.uniform([0.95, 0.78, 0.70], [1.1, 0.95, 0.95])
    pattern = 0.10 * smooth_field(generator, size, scale=0.02) + 0.12 * smooth_field(generator, size, scale=0.08)
    image += inside[..., None] * (dark - skin + pattern[..., None] * [1.0, 0.8, 0.7])

    image = _distractors(generator, image, skin)
    y, x = grid(size)
    light = 1 + 0.15 * generator.normal() * (x - 0.5) + 0.15 * generator.normal() * (y - 0.5)
    rim = soft(np.hypot(y - 0.5, x - 0.5) / generator.uniform(0.62, 0.85) - 1, width=0.05)
    return finish(generator, image * (light * (0.15 + 0.85 * rim))[..., None], blur=0.6, noise=0.015), distance < 0


def _lesion(generator: np.random.Generator, size: int) -> tuple[Field, Field]:
    distance = blob_distance(
        generator,
        size,
        centre=(generator.uniform(0.35, 0.65), generator.uniform(0.35, 0.65)),
        radius=generator.uniform(0.10, 0.32),
        stretch=generator.uniform(1.0, 1.8),
        angle=generator.uniform(0, np.pi),
        roughness=generator.uniform(0.1, 0.3),
    )
    return soft(distance, width=generator.uniform(0.03, 0.16)), distance


def _distractors(generator: np.random.Generator, image: Field, skin: Field) -> Field:
    """Adds freckles, hairs and gel bubbles; none of them belongs to the lesion."""
    size = len(image)
    for _ in range(generator.integers(0, 6)):
        spot = blob_distance(
            generator, size, centre=(generator.uniform(), generator.uniform()), radius=generator.uniform(0.01, 0.035)
        )
        image = image - soft(spot, width=0.3)[..., None] * generator.uniform(0.1, 0.3) * [0.8, 1.0, 1.0]
    if generator.uniform() < 0.5:
        for _ in range(generator.integers(3, 14)):
            hair = curve(generator, size, thickness=generator.uniform(0.004, 0.009), bend=generator.uniform(0, 0.1))
            image = image * (1 - generator.uniform(0.5, 0.85) * hair)[..., None]
    for _ in range(generator.integers(0, 4)):
        centre, radius = (generator.uniform(), generator.uniform()), generator.uniform(0.01, 0.04)
        ring = np.exp(-((blob_distance(generator, size, centre=centre, radius=radius, roughness=0) / 0.3) ** 2))
        image = image + 0.25 * ring[..., None]
    return image
