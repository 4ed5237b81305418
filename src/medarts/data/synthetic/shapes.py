"""What all synthetic images are drawn with: smooth random fields, irregular blobs, curved lines."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float64]


def smooth_field(generator: np.random.Generator, size: int, *, scale: float) -> Field:
    """Returns a random field of mean 0 and spread 1, size x size.

    Args:
        scale: size of its structures as a part of the image.
    """
    margin = int(np.ceil(3 * scale * size))
    noise = generator.standard_normal((size + 2 * margin, size + 2 * margin))
    field = ndimage.gaussian_filter(noise, scale * size)[margin : margin + size, margin : margin + size]
    normalised: Field = (field - field.mean()) / field.std()
    return normalised


def grid(size: int) -> tuple[Field, Field]:
    """Returns the coordinates (y, x) of all pixels, 0..1."""
    y, x = np.mgrid[:size, :size] / (size - 1)
    return y, x


def blob_distance(
    generator: np.random.Generator,
    size: int,
    *,
    centre: tuple[float, float],
    radius: float,
    stretch: float = 1.0,
    angle: float = 0.0,
    roughness: float = 0.15,
) -> Field:
    """Returns how far every pixel is inside (negative) or outside (positive) an irregular blob, in radii.

    Args:
        generator: draws the outline, a circle with five random Fourier terms.
        centre: (y, x), 0..1.
        radius: mean radius as a part of the image.
        angle: of the long axis, radians.
    """
    y, x = grid(size)
    dy, dx = y - centre[0], x - centre[1]
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / np.sqrt(stretch)
    v = (-dx * np.sin(angle) + dy * np.cos(angle)) * np.sqrt(stretch)
    theta = np.arctan2(v, u)
    outline = np.ones_like(theta)
    for order in range(2, 7):
        a, b = generator.normal(0, roughness / order, 2)
        outline += a * np.cos(order * theta) + b * np.sin(order * theta)
    distance: Field = np.hypot(u, v) / (radius * np.maximum(outline, 0.3)) - 1
    return distance


def soft(distance: Field, *, width: float) -> Field:
    """Returns 1 inside a blob, 0 outside, with an edge of ``width`` radii."""
    result: Field = 1 / (1 + np.exp(np.clip(distance / width, -50, 50)))
    return result


def curve(generator: np.random.Generator, size: int, *, thickness: float, bend: float) -> Field:
    """Returns a curved line across the image, 1 on it and 0 off it.

    Args:
        bend: how far it leaves the straight line, as a part of the image.
    """
    y, x = grid(size)
    angle, offset = generator.uniform(0, np.pi), generator.uniform(-0.45, 0.45)
    along = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    across = -(x - 0.5) * np.sin(angle) + (y - 0.5) * np.cos(angle)
    path = offset + bend * np.sin(generator.uniform(2, 5) * along + generator.uniform(0, 2 * np.pi))
    line: Field = np.exp(-(((across - path) / thickness) ** 2))
    return line


def finish(generator: np.random.Generator, image: Field, *, blur: float, noise: float) -> Field:
    """Returns the image as a camera would give it: blurred (pixels), with noise, within 0..1."""
    sigma = (blur, blur, 0) if image.ndim == 3 else blur
    blurred = ndimage.gaussian_filter(image, sigma)
    noisy: Field = np.clip(blurred + generator.normal(0, noise, image.shape), 0, 1)
    return noisy
