"""Where the voxels of a file lie in space, and how those of a mask lie among those of its image."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medarts.data.formats.raw import Array
from medarts.errors import DataError

APART = 0.1
"""Voxels by which two grids may differ: affines are written with few digits, or as quaternions of single precision."""

_SAME_BOUNDS = 1e-3
"""Millimetres."""

_FIX = (
    "Resample the mask to the grid of the image (nearest neighbour). If both arrays are in the same order, "
    "copy the affine of the image to the mask."
)


class GridError(DataError):
    """A mask does not lie on the grid of its image.

    Args:
        reason: what is wrong in few words, without the names of files.
    """

    def __init__(self, problem: str, *, fix: str, reason: str = "") -> None:
        super().__init__(problem, fix=fix)
        self.reason = reason


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The voxels of a volume.

    Attributes:
        shape: voxels along the three stored axes.
        affine: 4 x 4, from voxel indices to millimetres.
        placed: the file says where the voxels lie; else the affine is made of their sizes alone.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    placed: bool = True


@dataclass(frozen=True, slots=True)
class Placement:
    """How the slices of a mask become those of its image; both are cut along their last axis.

    Attributes:
        swapped: the first two axes of the mask are the second and first of the image.
        flipped: which axes of the image run the other way in the mask.
        slices: number of slices.
    """

    swapped: bool
    flipped: tuple[bool, bool, bool]
    slices: int

    def index(self, slice_index: int) -> int:
        """Returns the slice of the mask that belongs to a slice of the image."""
        return self.slices - 1 - slice_index if self.flipped[2] else slice_index

    def plane(self, values: Array) -> Array:
        """Returns a plane of the mask (first axis, second axis) in the order of the image."""
        values = values.T if self.swapped else values
        return np.flip(values, tuple(axis for axis in (0, 1) if self.flipped[axis]))


def placement(mask_path: Path, mask: Grid, image_path: Path, image: Grid) -> Placement:
    """Returns how a mask lies on the grid of its image: the same voxels, perhaps with axes swapped or reversed.

    Raises:
        GridError: they are not the same voxels (beyond rounding), or the slices of the two run along different axes.
    """
    order = _order(mask, image)
    if order is None:
        raise _off(mask_path, mask, image_path, image)
    axes, flipped = order
    if axes[2] != 2:
        raise GridError(
            f"The slices of {mask_path} run along another axis ({_codes(mask)}) than those of {image_path} "
            f"({_codes(image)}).",
            fix="Save the mask with the axes of the image.",
            reason=f"axes {_codes(mask)}, not {_codes(image)}",
        )
    return Placement(axes[0] == 1, (flipped[0], flipped[1], flipped[2]), image.shape[2])


def refuse_apart(mask_path: Path, mask: Grid, image_path: Path, image: Grid) -> None:
    """Raises a GridError where a mask does not lie on its image voxel by voxel, in the same order."""
    order = _order(mask, image)
    if mask.shape == image.shape and (order is None or order[0] != [0, 1, 2] or any(order[1])):
        raise _off(mask_path, mask, image_path, image)


def _order(mask: Grid, image: Grid) -> tuple[list[int], list[bool]] | None:
    """Returns, for every axis of the image, which axis of the mask runs along it, and whether in reverse.

    None where the voxels are not the same.
    """
    if mask.shape == image.shape and np.array_equal(mask.affine, image.affine):
        return [0, 1, 2], [False] * 3
    try:
        between = np.linalg.inv(image.affine) @ mask.affine  # from the voxels of the mask to those of the image
    except np.linalg.LinAlgError:  # a flat affine says nothing
        return None
    turn = np.rint(between[:3, :3])
    if not (np.abs(turn).sum(axis=0) == 1).all() or not (np.abs(turn).sum(axis=1) == 1).all():
        return None
    axes = [int(axis) for axis in np.abs(turn).argmax(axis=1)]
    if tuple(mask.shape[axis] for axis in axes) != image.shape:
        return None
    flipped = [bool(turn[row, axis] < 0) for row, axis in enumerate(axes)]
    exact = np.eye(4)
    exact[:3, :3] = turn
    exact[:3, 3] = [length - 1 if back else 0 for length, back in zip(image.shape, flipped, strict=True)]
    gaps = (between - exact) @ _corners(mask)
    return (axes, flipped) if np.abs(gaps[:3]).max() <= APART else None


def _corners(grid: Grid) -> NDArray[np.float64]:
    """Returns the corner voxels, 4 x 8 in homogeneous indices."""
    ends = product(*((0, length - 1) for length in grid.shape))
    return np.array([[*corner, 1] for corner in ends], dtype=np.float64).T


def _off(mask_path: Path, mask: Grid, image_path: Path, image: Grid) -> GridError:
    start = f"{mask_path} does not lie on the grid of {image_path}"
    if sorted(mask.shape) != sorted(image.shape):
        here, there = (" x ".join(map(str, grid.shape)) for grid in (mask, image))
        return GridError(f"{start}: it has {here} voxels, not {there}.", fix=_FIX, reason=f"{here} voxels, not {there}")
    if mask.placed != image.placed:
        without, other = ("the mask", "the image") if image.placed else ("the image", "the mask")
        problem = f"{start}: {without} has no affine (its qform and sform codes are 0), {other} has one."
        return GridError(problem, fix=_FIX, reason=f"{without} has no affine")
    ends = [(grid.affine @ _corners(grid))[:3] for grid in (mask, image)]
    apart = max(np.abs(end(ends[0], axis=1) - end(ends[1], axis=1)).max() for end in (np.min, np.max))
    if apart < _SAME_BOUNDS:
        return GridError(f"{start}: it fills the same space in another order.", fix=_FIX, reason="other order")
    problem = f"{start}: its bounds are up to {apart:.3g} mm away from those of the image."
    return GridError(problem, fix=_FIX, reason=f"{apart:.3g} mm away")


def _codes(grid: Grid) -> str:
    import nibabel

    return "".join(code or "?" for code in nibabel.aff2axcodes(grid.affine))
