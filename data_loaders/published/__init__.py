"""Published data sets: downloads, archives and the directories of tensorflow-datasets."""
