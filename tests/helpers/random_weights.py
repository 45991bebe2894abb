"""Random weights of LPIPS and I3D, in the cache folder as if they had been fetched."""

import numpy as np
from golden import lpips

from cwvae.metrics import i3d, weights


def i3d_arrays() -> dict[str, np.ndarray]:
    """Returns weights of I3D that keep the size of activations."""
    rng, found = np.random.default_rng(0), {}
    for name, shape in i3d.shapes().items():
        values = rng.standard_normal(shape, np.float32)
        if name.endswith("kernel"):
            values *= np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        found[name] = np.abs(values) + np.float32(0.5) if name.endswith("variance") else values
    return found


def write() -> None:
    """Writes both into the cache folder."""
    for name, arrays in (("lpips", lpips.arrays()), ("fvd", i3d_arrays())):
        path = weights.SOURCES[name].path
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays, sha256=weights.digest(arrays))
