"""Phantoms with masks.

Slices of an abdomen as in CT: a liver beside spleen, stomach, spine, ribs and kidneys of overlapping density. Skin
lesions as through a dermatoscope: brown on pink, with hair, a dark rim, freckles and a soft border. Polyps as in a
colonoscopy: red on red, between folds, with vessels and highlights, under a moving camera.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medarts.data.synthetic.shapes import Field, blob_distance, curve, finish, grid, smooth_field, soft

AIR, FAT, MUSCLE, BONE = -1000.0, -90.0, 45.0, 450.0


@dataclass(frozen=True, slots=True)
class Patient:
    """What the slices of a patient share.

    Attributes:
        seed: of the outlines.
        width: of the body, as a part of the image.
        shift: (y, x) of the body from the middle of the image.
        size: of the liver, relative to the usual.
        liver: density of the liver, Hounsfield.
        spleen: density of the spleen.
        noise: of the scanner, Hounsfield.
    """

    seed: int
    width: float
    shift: tuple[float, float]
    size: float
    liver: float
    spleen: float
    noise: float


def abdomen_patient(generator: np.random.Generator) -> Patient:
    """Draws a patient; liver and spleen differ by little."""
    liver = float(generator.uniform(80, 125))
    return Patient(
        seed=int(generator.integers(2**31)),
        width=float(generator.uniform(0.34, 0.40)),
        shift=(float(generator.normal(0, 0.025)), float(generator.normal(0, 0.025))),
        size=float(generator.uniform(0.7, 1.15)),
        liver=liver,
        spleen=liver + float(generator.normal(0, 14)),
        noise=float(generator.uniform(14, 28)),
    )


def abdomen(
    patient: Patient, height: float, generator: np.random.Generator, size: int
) -> tuple[Field, NDArray[np.bool_]]:
    """Returns a slice in Hounsfield, HW, and the mask of the liver.

    Args:
        height: where in the body, 0 (top of the liver) to 1 (its lower end).
    """
    shared = np.random.default_rng(patient.seed)

    def organ(
        y: float, x: float, radius: float, stretch: float = 1.0, *, angle: float = 0.0, roughness: float = 0.18
    ) -> Field:
        centre = (y + patient.shift[0], x + patient.shift[1])
        return blob_distance(
            shared, size, centre=centre, radius=radius, stretch=stretch, angle=angle, roughness=roughness
        )

    image = np.full((size, size), AIR)
    body = organ(0.5, 0.5, patient.width, 1.3, roughness=0.05)
    image = _put(image, body, FAT)
    image = _put(image, body + 0.07, MUSCLE)
    image = _put(image, body + 0.16, FAT + 25)
    swell = np.sin(np.pi * (0.15 + 0.7 * height))  # organs grow and shrink along the body
    image = _put(image, organ(0.40, 0.64, 0.09 + 0.03 * swell, 1.4, angle=0.5), 30 + 15 * shared.normal())
    image = _put(image, organ(0.47, 0.76, 0.055 + 0.045 * swell, 1.7, angle=1.2), patient.spleen)
    kidneys = 0.02 + 0.055 * height
    for x in (0.36, 0.66):
        image = _put(image, organ(0.64, x, kidneys, 1.3, angle=1.4), patient.liver + 35)
    place, tilt = shared.normal(0, 0.02, 2), shared.normal(-0.25, 0.4)
    radius = patient.size * (0.06 + 0.14 * swell)
    liver = organ(0.43 + place[0], 0.35 + place[1], radius, shared.uniform(1.1, 1.7), angle=tilt, roughness=0.3)
    liver = np.maximum(liver, body + 0.12)  # no organ leaves the body
    image = _put(image, liver, patient.liver)
    vessels = smooth_field(shared, size, scale=0.02)
    image = image + 45 * (vessels > 1.7) * (liver < -0.1)
    image = _put(image, organ(0.66, 0.51, 0.065), BONE)
    image = _put(image, organ(0.56, 0.50, 0.025), patient.liver + 60)
    for angle in np.linspace(0.2, 2 * np.pi, 11):
        rib = blob_distance(
            shared,
            size,
            centre=(
                0.5 + patient.shift[0] + 0.82 * patient.width * np.sin(angle),
                0.5 + patient.shift[1] + 1.04 * patient.width * np.cos(angle),
            ),
            radius=0.016,
            stretch=2.5,
            angle=angle + np.pi / 2,
        )
        image = _put(image, rib, BONE)
    texture = 6 * smooth_field(generator, size, scale=0.03)
    grain = ndimage.gaussian_filter(generator.normal(0, 1, image.shape), 0.7)
    return image + texture + patient.noise * grain / grain.std(), (liver < 0) & (image < BONE - 100)


def _put(image: Field, distance: Field, density: float) -> Field:
    return image + soft(distance, width=0.03) * (density - image)


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
