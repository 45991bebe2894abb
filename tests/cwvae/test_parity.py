"""Our model computes what the authors' code computes."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import reference

from cwvae.fast.model import FastCWVAE
from cwvae.model import CWVAE
from cwvae.video_model import training_loss


@pytest.fixture(params=["eager", "tf.function"])
def mode(request):
    tf.config.run_functions_eagerly(request.param == "eager")
    yield request.param
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("kind", [CWVAE, FastCWVAE], ids=["plain", "fast"])
@pytest.mark.parametrize("name", reference.NAMES)
def test_every_output_of_the_original(name, kind, mode):
    meta, want = reference.load(name)
    model, video = reference.model(meta, kind), reference.video(meta)
    context = meta["cfg"]["open_loop_ctx"]

    elbo = tf.function(lambda v: model.elbo(v, 0))(video)
    length = meta["T"]
    np.testing.assert_allclose(np.mean(np.sum(elbo.nll, 1)) / length, want["nll"], rtol=1e-4)
    for level, kl in enumerate(elbo.kl):
        np.testing.assert_allclose(kl, want[f"kl{level}"], rtol=1e-3, err_msg=f"kl{level}")
    kl_sum = sum(np.mean(np.sum(kl, 1)) for kl in elbo.kl) / length
    np.testing.assert_allclose(kl_sum, want["klsum"], rtol=1e-3)
    loss = training_loss(elbo, beta=[1.0] * meta["cfg"]["levels"])
    np.testing.assert_allclose(loss, want["loss"], rtol=1e-4)

    frames = model.reconstruct(video, 0, clip=False)
    np.testing.assert_allclose(frames[:, ::7, ::9, ::9], want["recon"], atol=1e-3)
    frames = model.reconstruct(video[:, :context], 0, clip=False)
    np.testing.assert_allclose(frames[:, ::5, ::9, ::9], want["post"], atol=1e-3)
    frames = model.predict(video[:, :context], length - context, 0, clip=False)
    np.testing.assert_allclose(frames[:, ::5, ::9, ::9], want["ol"], atol=1e-3)


SMALL = dict(stochastic_size=20, deterministic_size=200, hidden_size=200)
LARGE = dict(stochastic_size=100, deterministic_size=800, hidden_size=800)


@pytest.mark.parametrize(
    ("sizes", "channels", "levels", "count"),
    [
        (SMALL, 3, 1, 5_106_339),
        (SMALL, 3, 2, 8_788_243),
        (SMALL, 3, 3, 12_470_147),
        (SMALL, 3, 4, 16_152_051),
        (SMALL, 1, 3, 12_466_817),
        (LARGE, 3, 1, 12_879_379),
        (LARGE, 3, 2, 23_638_003),
        (LARGE, 3, 3, 34_396_627),
        (LARGE, 3, 4, 45_155_251),
    ],
)
def test_parameter_counts(sizes, channels, levels, count):
    model = CWVAE(
        levels=levels,
        factors=(6,) * (levels - 1),
        frame_size=64,
        channels=channels,
        mlp_size=1000,
        decoder_stddev=1.0,
        **sizes,
    )
    assert model.count_params() == count
