"""Slices of an abdomen as in CT: a liver beside spleen, stomach, spine, ribs and kidneys of overlapping density."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medarts.data.synthetic.shapes import Field, blob_distance, smooth_field, soft

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


def patient(generator: np.random.Generator) -> Patient:
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
