"""Times a training step of each of the paper's models, in turn, next to CW-VAE's.

    python benchmarks/models.py [--precision bfloat16] [--batch 4] [--length 100] [--rounds 2]

Prints a Markdown table. A row is the fastest run of benchmarks/train_step.py, one per round. SVG's
VGG computes the batch one clip at a time, because a whole batch does not fit into 24 GiB.
"""

import functools

import timing

VGG = "SVG-LP, VGG"
MODELS = {
    "CW-VAE (L = 3, k = 6)": "moving_mnist.yml",
    "NoTmpAbs (L = 3, k = 1)": "baselines/moving_mnist_notmpabs.yml",
    "RSSM (L = 1)": "baselines/moving_mnist_rssm.yml",
    "VTA": "baselines/moving_mnist_vta.yml",
    "SVG-LP, DCGAN": "baselines/moving_mnist_svg.yml",
    VGG: "baselines/kth_actions_svg.yml",
}


def main() -> None:
    """Runs the command line."""
    options = timing.options(__doc__, precision="float32", batch=4, length=100, rounds=2)
    runs = {}
    for name, file in MODELS.items():
        given = {key: value for key, value in vars(options).items() if key != "rounds"}
        given |= {"config": timing.ROOT / "configs" / file, "repeats": 1}
        given["accumulate"] = options.batch if name == VGG else 1
        runs[name] = functools.partial(timing.run, timing.TRAIN_STEP, given)
    best = timing.fastest(options.rounds, runs)
    ours = next(iter(best.values()))["frames_per_second"]
    print(f"| {options.precision} | weights | frames/s | time of CW-VAE's step | peak MiB |")
    print("| --- | --- | --- | --- | --- |")
    for name, result in best.items():
        speed = result["frames_per_second"]
        print(
            f"| {name} | {result['parameters']:,} | {speed:,.0f} | {ours / speed:.2f} |"
            f" {result['peak_rss_mib']:,} |"
        )


if __name__ == "__main__":
    main()
