"""Installs `configs/` inside the package; pyproject.toml holds everything else."""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path("configs")
FOLDERS = [ROOT, *(path for path in ROOT.rglob("*") if path.is_dir())]
CONFIGS = {".".join(["cwvae", *path.parts]): path.as_posix() for path in FOLDERS}

setup(
    packages=[*find_packages(include=["cwvae*", "data_loaders*"]), "cwvae.pretrained", *CONFIGS],
    package_dir=CONFIGS,
    # Everything in the folders of the packages: also the report's page, and the small model.
    package_data={"": ["*.html", "*.css", "*.js", "*.yml", "*.h5", "*.md"]},
)
