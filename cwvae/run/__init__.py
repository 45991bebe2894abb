"""A run's files on disk: folder, checkpoints, logs, versions."""
