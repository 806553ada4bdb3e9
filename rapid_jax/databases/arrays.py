"""Arrays of int32 in files, read back with one line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def map_array(path: Path, num_axes: int) -> np.ndarray:
    """The int32 array of a .npy file, mapped to it: nothing is read before it is used.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or of another type or number of axes.
    """
    try:
        array = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent} is damaged: {path.name} is missing; make the database anew") from None
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}); make the database anew") from None
    if array.dtype != np.int32 or array.ndim != num_axes:
        raise ValueError(f"{path} is damaged: not int32 with {num_axes} axes; make the database anew")
    return array.view(np.ndarray)
