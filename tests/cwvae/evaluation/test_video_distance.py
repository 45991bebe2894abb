"""FVD as the evaluation uses it, with known features."""

import json
import tracemalloc

import numpy as np
import pytest

from cwvae.evaluation import video_distance
from cwvae.evaluation.video_distance import VideoDistances
from cwvae.metrics import frechet, fvd

SHAPE = (7, 5, 3)  # H, W, C


class Means:
    """An extractor whose features are means over time of a few pixels."""

    size, digest = 6, "0123456789abcdef"

    def __init__(self):
        self.calls = []

    def features(self, videos):
        assert videos.dtype == np.uint8
        if videos.any():  # Not the black video that only measures the time.
            self.calls.append(videos.shape[:2])
        return videos[:, :, 0, :2].mean(1, dtype=np.float32).reshape(len(videos), 6)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CWVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fvd"


def clip(number, horizon, shape=SHAPE):
    return np.random.default_rng(number).integers(0, 256, (horizon, *shape), np.uint8)


def noisy(number, horizon, amount, shape=SHAPE):
    """Returns a prediction: the clip with noise, floats that may leave [0, 1]."""
    noise = np.random.default_rng(1000 + number).normal(amount, amount, (horizon, *shape))
    return (clip(number, horizon, shape) / 255 + noise).astype(np.float32)


def collector(i3d, horizon, count, other=True, **options):
    arguments = {
        "name": "model",
        "others": {},
        "truth": lambda n: clip(n, horizon),
        "other_real": (lambda n: clip(10_000 + n, horizon)) if other else None,
        "other_source": "other clips of the test set",
        "seed": 0,
    }
    return VideoDistances(i3d, horizon=horizon, num_videos=count, **(arguments | options))


def feed(distances, videos, batch_size=4, stretch=7):
    for first in range(0, len(videos), batch_size):
        batch = np.stack(videos[first : first + batch_size])
        for start in range(0, batch.shape[1], stretch):
            distances.add(start, batch[:, start : start + stretch])


def measured(i3d, horizon, count, amount=0.1, **options):
    distances = collector(i3d, horizon, count, **options)
    feed(distances, [noisy(n, horizon, amount) for n in range(count)])
    return distances.results()


def test_pieces_of_a_horizon():
    assert video_distance.prefixes(464) == [(0, n) for n in (16, 64, 256, 464)]
    assert video_distance.prefixes(16) == video_distance.windows(16) == [(0, 16)]
    assert video_distance.prefixes(32) == [(0, 16), (0, 32)]
    assert video_distance.prefixes(64) == [(0, 16), (0, 64)]
    assert video_distance.prefixes(9) == [(0, 9)]
    assert video_distance.windows(15) == []
    assert video_distance.windows(464) == [(0, 16), (48, 64), (240, 256), (448, 464)]
    assert video_distance.windows(30) == [(0, 16), (14, 30)]


def test_horizons_and_counts_without_a_distance():
    assert "at least 9 predicted frames" in video_distance.impossible(8, 2)
    assert "at least 2 videos" in video_distance.impossible(9, 1)
    assert video_distance.impossible(9, 2) is None
    for horizon, count in ((8, 5), (9, 1)):
        with pytest.raises(ValueError, match="at least"):
            collector(Means(), horizon, count)


def test_results_are_distances_of_frames_rounded_as_in_a_saved_video():
    horizon, count = 37, 11
    others = {"quiet": lambda n: clip(n, horizon) // 2}
    results = measured(Means(), horizon, count, 0.4, others=others)
    truth = np.stack([clip(n, horizon) for n in range(count)])
    floats = np.stack([noisy(n, horizon, 0.4) for n in range(count)])
    saved = np.round(255 * np.clip(floats, 0, 1)).astype(np.uint8)
    real = np.stack([clip(10_000 + n, horizon) for n in range(count)])

    def distance(start, stop, videos=saved):
        pair = (Means().features(v[:, start:stop]) for v in (truth, videos))
        return pytest.approx(frechet.frechet_distance(*(frechet.moments([f], 6) for f in pair)))

    assert list(results["scores"]) == ["model", "quiet"]
    for name, videos in (("model", saved), ("quiet", truth // 2)):
        scores = results["scores"][name]
        assert scores["value"] == distance(0, 37, videos)
        ends = (16, 37)
        assert scores["prefixes"] == [[end, distance(0, end, videos)] for end in ends]
        assert scores["windows"] == [[end - 16, distance(end - 16, end, videos)] for end in ends]
        assert scores["interval"][0] < scores["value"] < scores["interval"][1]
    assert results["floor"] == {
        "value": distance(0, 37, real),
        "source": "other clips of the test set",
    }


def test_results_state_their_protocol_counts_and_warnings():
    results = measured(Means(), 9, 5, other=False, other_source="only five clips")
    assert json.loads(json.dumps(results)) == results
    assert (results["frames"], results["num_videos"]) == (9, 5)
    assert results["module"] == "0123456789ab"
    assert "224x224" in results["protocol"]
    assert "5 videos of 9 frames" in results["protocol"]
    assert "fewer than 400" in results["warnings"][0]
    assert results["floor"] == {"value": None, "source": "only five clips"}
    assert results["scores"]["model"]["windows"] == []
    assert video_distance._warnings(400) == []


def test_still_videos_have_the_distances_of_all_their_pieces():
    still = np.stack([np.repeat(clip(n, 1), 20, 0) for n in range(5)])
    truth = np.stack([clip(n, 20) for n in range(5)])
    results = measured(Means(), 20, 5, others={"copy": lambda n: still[n]})

    def distance(start, stop):
        pair = (Means().features(v[:, start:stop]) for v in (truth, still))
        return pytest.approx(frechet.frechet_distance(*(frechet.moments([f], 6) for f in pair)))

    scores = results["scores"]["copy"]
    assert scores["prefixes"] == [[16, distance(0, 16)], [20, distance(0, 20)]]
    assert scores["windows"] == [[0, distance(0, 16)], [4, distance(4, 20)]]


def test_a_perfect_prediction_is_at_distance_0():
    scores = measured(Means(), 20, 6, 0.0)["scores"]["model"]
    for value in (scores["value"], *scores["interval"], *(v for _, v in scores["windows"])):
        assert 0 <= value < 1e-4  # of features that vary by hundreds


def test_results_do_not_depend_on_batches_or_stretches():
    videos = [noisy(n, 20, 0.3) for n in range(7)]
    found = []
    for batch_size, stretch in ((7, 20), (3, 6), (1, 1)):
        distances = collector(Means(), 20, 7)
        feed(distances, videos, batch_size, stretch)
        found.append(distances.results())
    assert found[0] == found[1] == found[2]


def test_features_that_no_model_changes_are_computed_once(cache, capsys):
    pieces = 3  # (0, 16), (0, 20), (4, 20)
    others = {"copy": lambda n: np.repeat(clip(n, 1), 20, 0)}
    first = Means()
    results = measured(first, 20, 18, others=others)
    # The model's batches of 4; the truth, the copy and the floor's whole horizon in 16 and 2.
    # Of the copy, which stands still, 16 frames are as good as any other 16.
    assert len(first.calls) == 5 * pieces + 2 * (pieces + (pieces - 1) + 1)
    assert len(list(cache.iterdir())) == 3
    # 18 videos: two sets of 52 frames, the copy's 36, and the floor's 20.
    assert "FVD: features of 2,880 frames, about 0.0 minutes. To leave" in capsys.readouterr().out
    second = Means()
    assert measured(second, 20, 18, others=others) == results
    assert len(second.calls) == 5 * pieces
    assert "FVD: features of 936 frames" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["network", "pixel", "horizon", "preprocessing"])
def test_cached_features_are_not_used_for_other_inputs(change, monkeypatch):
    measured(Means(), 20, 5)
    other, horizon, options = Means(), 20, {}
    if change == "network":
        other.digest = "f" * 64
    elif change == "horizon":
        horizon = 21
    elif change == "preprocessing":
        monkeypatch.setattr(fvd, "PREPROCESSING", "2: another")
    else:

        def truth(n):
            video = clip(n, 20)
            video[-1, -1, -1, -1] ^= n == 4
            return video

        options = {"truth": truth}
    measured(other, horizon, 5, **options)
    assert (5, horizon) in other.calls


def test_damaged_features_are_computed_again(cache, capsys):
    results = measured(Means(), 20, 5)
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    again = Means()
    assert measured(again, 20, 5) == results
    assert capsys.readouterr().err.count("damaged. These features are computed again") == 2
    unharmed = Means()
    assert measured(unharmed, 20, 5) == results
    assert len(unharmed.calls) < len(again.calls)


@pytest.mark.parametrize("kind", ["entries are folders", "folder is a file"])
def test_features_that_cannot_be_read_or_kept_are_computed_again(cache, capsys, kind):
    results = measured(Means(), 20, 5)
    for path in cache.iterdir():
        path.unlink()
        if kind == "entries are folders":
            path.mkdir()
    if kind == "folder is a file":
        cache.rmdir()
        cache.write_text("")
    assert measured(Means(), 20, 5) == results
    printed = capsys.readouterr()
    # The estimate counts them, too: the model's, the truth's, and the floor's 20 frames.
    assert printed.out.splitlines()[1].startswith("FVD: features of 620 frames")
    assert printed.err.count("cannot be read (") == 2
    assert printed.err.count("cannot be written (") == 2


def test_predictions_of_wrong_shape_or_order_are_refused():
    video = np.zeros((2, 20, *SHAPE), np.float32)
    distances = collector(Means(), 20, 3)
    with pytest.raises(ValueError, match="NaN or an infinity"):
        distances.add(0, np.where(np.arange(20)[:, None, None, None] == 7, np.nan, video))
    for start, frames in (
        (4, video[:, 4:]),  # not the first stretch
        (0, video[:, :0]),
        (0, np.zeros((2, 21, *SHAPE), np.float32)),  # longer than the truth
        (0, np.zeros((2, 20, 7, 5, 1), np.float32)),
        (0, np.zeros((20, *SHAPE), np.float32)),
        (0, np.zeros((4, 20, *SHAPE), np.float32)),  # more videos
    ):
        with pytest.raises(
            ValueError, match=r"model: expected frames \[1 to 3, 1 to 20, 7, 5, 3\]"
        ):
            distances.add(start, frames)
    distances.add(0, video[:, :8])
    for start, frames in ((0, video), (8, video[:1, 8:]), (8, video)):
        with pytest.raises(ValueError, match=r"\[2, 1 to 12, 7, 5, 3\] from number 8"):
            distances.add(start, frames)
    with pytest.raises(ValueError, match="model: 0 whole videos out of 3"):
        distances.results()
    distances.add(8, video[:, 8:])
    with pytest.raises(ValueError, match="model: 2 whole videos out of 3"):
        distances.results()


def test_true_videos_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="real video 0"):
        collector(Means(), 20, 3, truth=lambda n: clip(n, 19))
    with pytest.raises(ValueError, match=r"real video 2: expected uint8 \[20, 7, 5, 3\], got .*19"):
        collector(Means(), 20, 3, truth=lambda n: clip(n, 20 - (n == 2)))


def test_memory_does_not_grow_with_the_number_of_videos():
    def peak(count):
        distances = collector(Means(), 32, count)
        tracemalloc.start()
        for first in range(0, count, 10):
            batch = np.stack([noisy(n, 32, 0.1) for n in range(first, first + 10)])
            distances.add(0, batch)
        distances.results()
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)  # warm up
    # Their frames would be 3 MB. In memory a video has only the number of times it is drawn.
    assert peak(1000) < peak(10) + 200_000
