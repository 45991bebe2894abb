"""Installs `configs/` inside the package; pyproject.toml holds everything else."""

import pathlib

from setuptools import find_packages, setup

CONFIGS = [path for path in pathlib.Path("configs").rglob("*") if path.is_dir()]
FOLDERS = {
    ".".join(["cwvae", *path.parts]): str(path) for path in [pathlib.Path("configs"), *CONFIGS]
}

setup(
    packages=[*find_packages(include=["cwvae*", "data_loaders*"]), *FOLDERS],
    package_dir=FOLDERS,
    package_data={name: ["*.yml"] for name in FOLDERS},
)
