"""The store of prepared clips: its format, its preparation, the processes that decode."""
