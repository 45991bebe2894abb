"""Everything that the scripts import, before TensorFlow starts threads. See `scripts.Forked`."""

import h5py  # noqa: F401
import matplotlib.pyplot  # noqa: F401

import cwvae.evaluation.evaluator
import cwvae.factory
import cwvae.training.loop  # noqa: F401
