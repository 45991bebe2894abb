"""Writes real_lpips.npz: LPIPS by the `lpips` package, for images that a formula gives.

    pip install torch==2.13.0 lpips==0.1.4 --no-deps
    python -m cwvae.metrics.weights fetch
    PYTHONPATH=. python -P tests/golden/real_lpips.py  # -P: not the lpips.py next to it

The package's own file holds the heads. torchvision, which it imports only for AlexNet's layers, is
replaced by these layers, and their weights are those that `fetch` wrote. The tests import this
module without torch.
"""

import pathlib
import sys
import types

import numpy as np

FILE = pathlib.Path(__file__).parent / "real_lpips.npz"

SIZES = (32, 64, 100)


def images(size: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Returns (truth, prediction): waves [4, H, W, C] in [0, 1], float32, and others ever later."""
    t, y, x, c = np.ogrid[:4, :size, :size, :channels]

    def waves(t, shift):
        return 0.5 + 0.5 * np.sin(0.21 * x + 0.13 * t + shift) * np.cos(
            0.17 * y - 0.07 * t + 0.5 * c
        )

    return waves(t, 0).astype(np.float32), waves(t * 1.5, 0.9 * t).astype(np.float32)


def main() -> None:
    """Writes the file."""
    import torch

    from cwvae.metrics import weights

    nn = torch.nn
    places, sizes = (0, 3, 6, 8, 10), ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
    arrays, layers = weights.load("lpips").arrays, [None] * 12
    for i, (place, (kernel, stride, pad)) in enumerate(zip(places, sizes, strict=True)):
        values = torch.tensor(np.transpose(arrays[f"kernel{i}"], (3, 2, 0, 1)).copy())
        layers[place] = nn.Conv2d(values.shape[1], values.shape[0], kernel, stride, pad)
        layers[place].weight.data = values
        layers[place].bias.data = torch.tensor(arrays[f"bias{i}"])
        layers[place + 1] = nn.ReLU(inplace=False)
    layers[2] = layers[5] = nn.MaxPool2d(3, 2)
    network = types.SimpleNamespace(features=nn.Sequential(*layers))
    models = types.SimpleNamespace(alexnet=lambda pretrained: network)
    sys.modules["torchvision"] = types.SimpleNamespace(models=models)

    import lpips

    distance, found = lpips.LPIPS(net="alex", verbose=False), {}
    for size in SIZES:
        pair = [torch.tensor(2 * part - 1).permute(0, 3, 1, 2) for part in images(size)]
        found[f"rgb_{size}"] = distance(*pair).detach().numpy().ravel()
        pair = [torch.tensor(2 * part - 1).permute(0, 3, 1, 2) for part in images(size, 1)]
        found[f"gray_{size}"] = distance(*[p.repeat(1, 3, 1, 1) for p in pair]).detach().numpy()
        found[f"gray_{size}"] = found[f"gray_{size}"].ravel()
    np.savez(FILE, **found)
    print(found)


if __name__ == "__main__":
    main()
