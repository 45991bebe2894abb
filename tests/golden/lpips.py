"""Writes lpips.npz: LPIPS per tap in plain torch, for weights and images from fixed seeds.

    pip install torch==2.13.0 numpy
    python tests/golden/lpips.py

NumPy's RandomState never changes its streams, so only the distances are stored. The tests import
this module without torch.
"""

import pathlib

import numpy as np

FILE = pathlib.Path(__file__).parent / "lpips.npz"

# Shape of each case's images, [F, H, W, C] in [0, 1].
CASES = {
    "rgb_64x64": (5, 64, 64, 3),
    "gray_64x64": (3, 64, 64, 1),
    "rgb_32x32": (4, 32, 32, 3),
    "gray_32x32": (2, 32, 32, 1),
    "rgb_45x83": (2, 45, 83, 3),
}
# By index in torchvision's `features`: kernel shape, stride and padding.
CONVOLUTIONS = {
    0: ((64, 3, 11, 11), 4, 2),
    3: ((192, 64, 5, 5), 1, 2),
    6: ((384, 192, 3, 3), 1, 1),
    8: ((256, 384, 3, 3), 1, 1),
    10: ((256, 256, 3, 3), 1, 1),
}


def state_dicts() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns random weights under the names and in the layout of the two official files."""
    random = np.random.RandomState(1)
    alexnet, heads = {}, {}
    for i, (layer, (shape, _, _)) in enumerate(CONVOLUTIONS.items()):
        kernel = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        bias = 0.1 * random.standard_normal(shape[0])
        alexnet[f"features.{layer}.weight"] = kernel.astype(np.float32)
        alexnet[f"features.{layer}.bias"] = bias.astype(np.float32)
        head = random.uniform(0, 1, (1, shape[0], 1, 1))
        heads[f"lin{i}.model.1.weight"] = head.astype(np.float32)
    return alexnet, heads


def arrays() -> dict[str, np.ndarray]:
    """Returns the same weights under the names and in the layout of `cwvae.metrics.weights`."""
    (alexnet, heads), found = state_dicts(), {}
    for i, layer in enumerate(CONVOLUTIONS):
        found[f"kernel{i}"] = np.transpose(alexnet[f"features.{layer}.weight"], (2, 3, 1, 0))
        found[f"bias{i}"] = alexnet[f"features.{layer}.bias"]
        found[f"head{i}"] = heads[f"lin{i}.model.1.weight"].reshape(-1)
    return found


def images(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (truth, prediction): noise, and the same with increasing noise added, float32."""
    shape = CASES[case]
    random = np.random.RandomState(len(case) + sum(shape))
    truth, noise = random.uniform(size=shape), random.uniform(size=shape)
    amount = np.linspace(0.1, 1, shape[0]).reshape(-1, 1, 1, 1)
    prediction = (1 - amount) * truth + amount * noise
    return truth.astype(np.float32), prediction.astype(np.float32)


def distances(alexnet: dict, heads: dict, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Returns LPIPS per tap, [F, 5], computed by torch in float64 to avoid rounding errors."""
    import torch
    from torch.nn import functional

    def tensor(array):
        return torch.tensor(np.asarray(array), dtype=torch.float64)

    def channels(*values):
        return tensor(values).reshape(1, 3, 1, 1)

    def features(frames):
        x = tensor(frames).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
        x = 2 * x - 1
        x = (x - channels(-0.030, -0.088, -0.188)) / channels(0.458, 0.448, 0.450)
        for layer, (_, stride, padding) in CONVOLUTIONS.items():
            if layer in (3, 6):
                x = functional.max_pool2d(x, kernel_size=3, stride=2)
            weight, bias = (tensor(alexnet[f"features.{layer}.{k}"]) for k in ("weight", "bias"))
            x = functional.relu(functional.conv2d(x, weight, bias, stride, padding))
            yield x / (torch.sqrt(torch.sum(x**2, dim=1, keepdim=True)) + 1e-10)

    taps = []
    for i, (x, y) in enumerate(zip(features(truth), features(prediction), strict=True)):
        difference = functional.conv2d((x - y) ** 2, tensor(heads[f"lin{i}.model.1.weight"]))
        taps.append(difference.mean([1, 2, 3]).numpy())
    return np.stack(taps, -1)


if __name__ == "__main__":
    weights = state_dicts()
    np.savez(FILE, **{case: distances(*weights, *images(case)) for case in CASES})
