"""Writes a run's config.yml again, from the newest checkpoint.

    python -m cwvae.run.restore_config RUN

An existing config.yml is kept as config.yml.edited.
"""

import argparse
import os
import pathlib

from cwvae import config as configuration
from cwvae.config import Config
from cwvae.errors import UserError, exit_on_user_error
from cwvae.run import folder


def restore(logdir: str | pathlib.Path) -> Config:
    """Writes the configuration in a run's newest checkpoint to its config.yml, and returns it.

    Raises:
      UserError: No checkpoint has a configuration, or the folder cannot be written.
    """
    path = pathlib.Path(logdir) / "config.yml"
    config = folder.trained_with(logdir)
    if config is None:
        raise UserError(f"{logdir}: no checkpoint there holds a configuration. Copy {path} back.")
    with folder.locked(logdir):
        if path.exists():
            os.replace(path, path.with_name("config.yml.edited"))
        configuration.save_run(config, logdir)
    return config


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m cwvae.run.restore_config",
        description="Writes a run's config.yml again, from the newest checkpoint.",
    )
    parser.add_argument("logdir", help="the run's folder")
    configuration.refuse_settings(parser)
    arguments = parser.parse_args()
    with exit_on_user_error():
        restore(arguments.logdir)
    print(f"Restored {pathlib.Path(arguments.logdir) / 'config.yml'}.")


if __name__ == "__main__":
    main()
