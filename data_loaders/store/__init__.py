"""The store of prepared clips: format, preparation, worker processes."""
