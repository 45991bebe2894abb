"""Times a training step of each of the paper's models, in turn, beside CW-VAE's.

    python benchmarks/models.py [--precision bfloat16] [--batch 4] [--length 100] [--rounds 2]

Prints a Markdown table: each row is benchmarks/train_step.py in processes of its own, one in each
round, of which the fastest counts. SVG's VGG takes the batch a clip at a time: in one piece it does
not fit into 24 GiB.
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent

VGG = "SVG-LP, VGG"
MODELS = {
    "CW-VAE (L = 3, k = 6)": "moving_mnist.yml",
    "NoTmpAbs (L = 3, k = 1)": "baselines/moving_mnist_notmpabs.yml",
    "RSSM (L = 1)": "baselines/moving_mnist_rssm.yml",
    "VTA": "baselines/moving_mnist_vta.yml",
    "SVG-LP, DCGAN": "baselines/moving_mnist_svg.yml",
    VGG: "baselines/kth_actions_svg.yml",
}


def step(options: argparse.Namespace, name: str) -> dict:
    """Returns what benchmarks/train_step.py measures."""
    script = ROOT / "benchmarks" / "train_step.py"
    command = [sys.executable, str(script), "--config", str(ROOT / "configs" / MODELS[name])]
    if name == VGG:
        command += ["--accumulate", str(options.batch)]
    for key in ("precision", "batch", "length"):
        command += [f"--{key}", str(getattr(options, key))]
    command += ["--repeats", "1"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=100, help="frames per clip")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    best: dict[str, dict] = {}
    for _ in range(options.rounds):
        for name in MODELS:
            result = step(options, name)
            if result["frames_per_second"] > best.get(name, result)["frames_per_second"]:
                best[name] = result
            best.setdefault(name, result)
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
