"""Files of arrays, which are there whole or not at all."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.system.files import open_file, write_whole

Arrays = Mapping[str, NDArray[Any]]


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Writes a compressed .npz file.

    Raises:
        RunError: it cannot be written.
    """
    content, parts = io.BytesIO(), dict[str, Any](arrays)
    np.savez_compressed(content, **parts)
    write_whole(path, content.getvalue())


def read_arrays(path: Path) -> Arrays:
    """Reads all that `write_arrays` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        RunError: it is no regular file.
        ValueError: it is damaged.
    """
    try:
        with open_file(path) as file, np.load(file) as arrays:
            return dict(arrays)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error
