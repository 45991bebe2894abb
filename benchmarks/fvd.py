"""Measures FVD with the real weights: its cost, and its bias by the number of videos.

    python -m cwvae.metrics.weights fetch     # once
    python benchmarks/fvd.py speed            seconds per clip
    python benchmarks/fvd.py bias             real videos against other real videos

Prints Markdown tables. `bias` takes the first 16 frames of clips of `moving_digits`, as in
configs/quickstart.yml: other digits and motions, so the distance of unlimited sets would be 0.
"""

import argparse

import numpy as np
import timing
import tqdm

ROOT = timing.ROOT
COUNTS = (16, 32, 64, 128, 256, 400)
DRAWS = 20
FRAMES = 16


def speed(videos: int = 4) -> None:
    """Prints the time of I3D for gray and color clips, and of convolutions that span time."""
    from cwvae.metrics import fvd

    i3d = fvd.I3D()
    print("| frames of a clip | gray, s per clip | color, s per clip |")
    print("| --- | --- | --- |")
    for length in (16, 30, 64, 128):
        seconds = []
        for channels in (1, 3):
            shape = (videos, length, 64, 64, channels)
            clips = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            seconds.append(timing.seconds(lambda clips=clips: i3d.features(clips), 3) / videos)
        print(f"| {length} | {seconds[0]:.2f} | {seconds[1]:.2f} |", flush=True)


def bias() -> None:
    """Prints the distance of two sets of real videos, by their size."""
    import data_loaders
    from cwvae import config as configuration
    from cwvae.metrics import frechet, fvd

    count = max(COUNTS)
    config = configuration.load(
        ROOT / "configs" / "quickstart.yml", [f"data.test_videos={2 * count}"]
    )
    data, i3d = data_loaders.load(split="test", **config.data_options()), fvd.I3D()
    features = np.concatenate(
        [
            i3d.features(np.stack([data.clip(i, 0, FRAMES) for i in range(first, first + 16)]))
            for first in tqdm.tqdm(range(0, 2 * count, 16), "I3D")
        ]
    )
    rng = np.random.default_rng(0)
    print("| N | distance, mean | standard deviation | 95% interval of one draw |")
    print("| --- | --- | --- | --- |")
    for size in COUNTS:
        drawn = []
        for _ in range(DRAWS):
            order = rng.permutation(2 * count)[: 2 * size]
            sets = features[order[:size]], features[order[size:]]
            drawn.append(frechet.frechet_distance(*(frechet.moments([s], i3d.size) for s in sets)))
        chunks = [lambda part=part: [part] for part in sets]
        intervals = frechet.bootstrap_intervals(
            {"real": drawn[-1]}, chunks[0], {"real": chunks[1]}, size, i3d.size, 0
        )
        low, high = intervals["real"]
        print(
            f"| {size} | {np.mean(drawn):.1f} | {np.std(drawn, ddof=1):.1f} |"
            f" {drawn[-1]:.1f}: {low:.1f} to {high:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = {"speed": speed, "bias": bias}
    parser.add_argument("table", choices=tables)
    tables[parser.parse_args().table]()
