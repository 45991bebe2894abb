"""Set before TensorFlow starts, which reads them once."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
