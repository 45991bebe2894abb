"""Tests of KTH Actions, on small archives with the same layout."""

import dataclasses
import itertools
import zipfile

import numpy as np
import pytest
from helpers.http_server import serve
from helpers.video_files import write_video

from cwvae.errors import UserError
from data_loaders.published import downloads, kth_actions
from data_loaders.published.kth_actions import ACTIONS, SEQUENCES, KthActions, read_sequences
from data_loaders.sources import BadVideo

PERSONS = (1, 2, 16, 17, 20, 21, 25)
LENGTH = 70  # More than one block of a decoder.

TEXT = """\
\t\tRecognition of human actions\r
\r
Training:   person11, 12, 13\r
The frames of person01_boxing_d1_uncomp.avi, and so on, follow.\r
\r
person01_boxing_d1\t\tframes\t1-10, 11-66, 65-70\r
person02_boxing_d1\tframes\t1 - 5,7-9,\r
\r
person13_handclapping_d3\t*missing*\r
person21_boxing_d1\t\tframes\t3-3, 3-3\r
person25_walking_d1\t\tframes\t60-71\r
"""


def frames_of(key: str) -> np.ndarray:
    """Returns uint8 [T, 120, 160]; all pixels of a frame are equal."""
    rng = np.random.default_rng(list(key.encode()))
    values = rng.permutation(256)[:LENGTH].astype(np.uint8)
    return np.broadcast_to(values[:, None, None], (LENGTH, 120, 160))


def keys_of(action: str) -> list[str]:
    return [f"person{person:02}_{action}_d1" for person in PERSONS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The six archives, with a few persons each, and the list of sequences."""
    folder = tmp_path_factory.mktemp("kth")
    for action in ACTIONS:
        with zipfile.ZipFile(folder / f"{action}.zip", "w") as archive:
            for key in keys_of(action):
                file = write_video(folder / f"{key}_uncomp.avi", frames_of(key))
                archive.write(file, file.name)
                file.unlink()
    (folder / SEQUENCES).write_bytes(TEXT.encode())
    return folder


def read_all(source, item) -> np.ndarray:
    """Returns the value of each frame, uint8 [T]."""
    frames = np.concatenate(list(source.read("train", item)))
    assert frames.shape == (len(frames), *source.frame_shape)
    assert (frames == frames[:, :1, :1]).all()
    return frames[:, 0, 0, 0]


@pytest.mark.parametrize("sequences", [False, True])
def test_from_interrupted_downloads_to_frames(folder, monkeypatch, tmp_path, capfd, sequences):
    monkeypatch.setattr(downloads, "RETRY_SECONDS", (0.01,))
    with serve() as server:
        files = {}
        for file in kth_actions.FACTS.files:
            server.files[f"/{file}"] = (folder / file).read_bytes()
            files[file] = ("http://localhost:9/gone", f"{server.url}/{file}")
        server.cuts["/boxing.zip"] = [2**14]
        facts = dataclasses.replace(kth_actions.FACTS, files=files)
        monkeypatch.setattr(kth_actions, "FACTS", facts)
        source = KthActions(data_dir=str(tmp_path), kth_sequences=sequences)
        source.fetch()
        first, second = (request for request in server.requests if request.path == "/boxing.zip")
        assert second.range == f"bytes={first.sent}-"
        assert len(server.requests) == 7 + sequences
    expected = {f"{action}.zip" for action in ACTIONS} | ({SEQUENCES} if sequences else set())
    got = {file.name for file in (tmp_path / "downloads").iterdir()}
    assert {name for name in got if not name.endswith(".lock")} == expected
    printed = capfd.readouterr().err
    for part in (facts.description, f"homepage: {facts.homepage}", facts.licence):
        assert printed.count(part) == 1
    assert printed.count(f"to {tmp_path}/downloads") == 6 + sequences
    item = source.items("train")[0]
    np.testing.assert_array_equal(
        read_all(source, item)[:10], frames_of(keys_of("boxing")[0])[:10, 0, 0]
    )


def test_whole_videos(folder):
    source = KthActions(archives_dir=str(folder))
    assert source.frame_shape == (64, 64, 1)
    items = source.items("train")
    assert items[:2] == ["person01_boxing_d1_uncomp.avi", "person01_handclapping_d1_uncomp.avi"]
    for item in items[:3]:
        key = item.removesuffix("_uncomp.avi")
        np.testing.assert_array_equal(read_all(source, item), frames_of(key)[:, 0, 0])
    assert source.expected_frames() == 500 * len(PERSONS) * len(ACTIONS)
    assert source.digest("train", items[0]) != source.digest("train", items[1])


@pytest.mark.parametrize(
    ("split", "train", "test"),
    [("svg", (1, 2, 16, 17, 20), (21, 25)), ("mcnet", (1, 2, 16), (17, 20, 21, 25))],
)
def test_persons_are_split(folder, split, train, test):
    source = KthActions(archives_dir=str(folder), kth_split=split)
    for name, persons in (("train", train), ("test", test)):
        items = source.items(name)
        assert len(items) == len(persons) * len(ACTIONS)
        assert {int(item[6:8]) for item in items} == set(persons)
    assert not set(source.items("train")) & set(source.items("test"))


def test_every_person_is_in_one_split():
    for splits in kth_actions.PERSONS.values():
        assert sorted(itertools.chain(*splits.values())) == list(range(1, 26))


def test_ranges_of_frames(folder):
    source = KthActions(archives_dir=str(folder), kth_sequences=True)
    assert source.items("train") == [
        "person01_boxing_d1_uncomp.avi#1-10",
        "person01_boxing_d1_uncomp.avi#11-66",
        "person01_boxing_d1_uncomp.avi#65-70",
        "person02_boxing_d1_uncomp.avi#1-5",
        "person02_boxing_d1_uncomp.avi#7-9",
    ]
    whole = frames_of("person01_boxing_d1")[:, 0, 0]
    for item, expected in zip(
        source.items("train"), (whole[:10], whole[10:66], whole[64:70]), strict=False
    ):
        np.testing.assert_array_equal(read_all(source, item), expected)
    assert source.items("test")[0] == "person21_boxing_d1_uncomp.avi#3-3"
    assert len(read_all(source, "person21_boxing_d1_uncomp.avi#3-3")) == 1
    assert source.expected_frames() == 10 + 56 + 6 + 5 + 3 + 1 + 12
    whole = KthActions(archives_dir=str(folder))
    video = "person01_boxing_d1_uncomp.avi"
    assert source.digest("train", f"{video}#1-10") == whole.digest("train", video)


def test_a_range_beyond_the_end_is_a_bad_video(folder):
    source = KthActions(archives_dir=str(folder), kth_sequences=True)
    with pytest.raises(BadVideo, match=r"has 70 frames, but 00sequences\.txt lists 60-71"):
        read_all(source, "person25_walking_d1_uncomp.avi#60-71")


def test_a_truncated_video_gives_the_ranges_before_its_end(folder, monkeypatch):
    def breaks_off(*_, **__):
        yield np.zeros((64, 64, 64, 1), np.uint8)
        raise BadVideo("breaks off")

    monkeypatch.setattr("data_loaders.published.sets.read_video", breaks_off)
    source = KthActions(archives_dir=str(folder), kth_sequences=True)
    assert len(read_all(source, "person01_boxing_d1_uncomp.avi#1-64")) == 64
    with pytest.raises(BadVideo, match="breaks off"):
        read_all(source, "person01_boxing_d1_uncomp.avi#65-70")


def test_skipped_and_missing_files_are_reported(folder, tmp_path, capfd):
    for action in ACTIONS:
        (tmp_path / f"{action}.zip").write_bytes((folder / f"{action}.zip").read_bytes())
    (tmp_path / SEQUENCES).write_text(
        "person01_boxing_d1 frames 1-10\nperson21_boxing_d1 frames 1-2"
    )
    with zipfile.ZipFile(tmp_path / "walking.zip", "a") as archive:
        for name in ("person26_walking_d1_uncomp.avi", "person01_running_d2_uncomp.avi", "x.avi"):
            archive.writestr(name, b"")
    source = KthActions(archives_dir=str(tmp_path), kth_sequences=True)
    source.fetch()
    notes = capfd.readouterr().err
    assert (
        "3 files are skipped: their names are not those of videos of the archive: person01_run"
        in notes
    )
    assert f"{599 - 42} videos are not in the archives: person01_boxing_d2, " in notes
    assert f"{42 - 2} videos are skipped: {SEQUENCES} lists no frames of them" in notes
    assert "person13_handclapping_d3" not in notes
    assert len(source.items("train")) == 1


def write_empty(folder, keys) -> None:
    for action in ACTIONS:
        with zipfile.ZipFile(folder / f"{action}.zip", "w") as archive:
            for key in keys:
                if f"_{action}_" in key:
                    archive.writestr(f"{key}_uncomp.avi", b"")


def test_the_published_roster_gives_no_notes(tmp_path, capfd):
    persons, scenarios = range(1, 26), range(1, 5)
    keys = {f"person{p:02}_{a}_d{s}" for p in persons for a in ACTIONS for s in scenarios}
    keys.remove(kth_actions.ABSENT)
    write_empty(tmp_path, keys)
    source = KthActions(archives_dir=str(tmp_path))
    source.fetch()
    assert capfd.readouterr().err == ""
    assert len(source.items("train")) + len(source.items("test")) == 599
    assert source.expected_frames() >= 290_000


def test_a_split_without_persons_is_rejected(tmp_path):
    write_empty(tmp_path, [f"person01_{action}_d1" for action in ACTIONS])
    with pytest.raises(UserError, match=r"persons 21 to 25, the test split of data\.kth_split=svg"):
        KthActions(archives_dir=str(tmp_path)).fetch()


def test_archives_that_are_not_in_the_folder_are_all_named(tmp_path):
    write_empty(tmp_path, [])
    (tmp_path / "walking.zip").unlink()
    with pytest.raises(UserError) as caught:
        KthActions(archives_dir=str(tmp_path), kth_sequences=True).fetch()
    for part in ("walking.zip", SEQUENCES, str(tmp_path), "http://www.nada.kth.se/cvap/actions/"):
        assert part in str(caught.value)
    assert "boxing.zip" not in str(caught.value)


def test_videos_in_a_folder_of_the_archive(folder, tmp_path):
    for action in ACTIONS:
        with (
            zipfile.ZipFile(folder / f"{action}.zip") as archive,
            zipfile.ZipFile(tmp_path / f"{action}.zip", "w") as other,
        ):
            for name in archive.namelist():
                other.writestr(f"{action}/{name}", archive.read(name))
    source = KthActions(archives_dir=str(tmp_path))
    assert source.items("train")[0] == "boxing/person01_boxing_d1_uncomp.avi"
    assert len(read_all(source, source.items("train")[0])) == LENGTH


def test_a_video_of_another_size_is_a_bad_video(folder, tmp_path):
    write_empty(tmp_path, [])
    file = write_video(
        tmp_path / "person01_boxing_d1_uncomp.avi", np.zeros((3, 120, 120), np.uint8)
    )
    with zipfile.ZipFile(tmp_path / "boxing.zip", "w") as archive:
        archive.write(file, file.name)
    with pytest.raises(BadVideo, match="120"):
        read_all(KthActions(archives_dir=str(tmp_path)), file.name)


def test_an_item_that_is_in_no_archive(folder):
    source = KthActions(archives_dir=str(folder))
    with pytest.raises(BadVideo, match="not have the name of a video"):
        source.digest("train", "walk.avi")
    with pytest.raises(BadVideo, match="is not in"):
        source.digest("train", "person03_boxing_d1_uncomp.avi")


def test_squeezed_frames(folder):
    source = KthActions(archives_dir=str(folder), fit="squeeze", frame_size=32, channels=3)
    frames = next(source.read("train", source.items("train")[0]))
    assert frames.shape[1:] == source.frame_shape == (32, 32, 3)


def test_the_description_has_the_split_and_the_kind_of_item():
    described = KthActions(kth_split="mcnet").describe()
    expected = {"name": "kth_actions", "kth_split": "mcnet", "kth_sequences": False}
    assert expected.items() <= described.items()
    assert described != KthActions(kth_split="mcnet", kth_sequences=True).describe()
    assert described != KthActions().describe()


def test_options_out_of_range():
    with pytest.raises(UserError, match=r"data\.kth_split 'svgg'; did you mean 'svg'"):
        KthActions(kth_split="svgg")
    with pytest.raises(UserError, match="did you mean 'train'"):
        KthActions().items("trian")


def test_the_list_of_sequences(folder):
    assert read_sequences(folder / SEQUENCES) == {
        "person01_boxing_d1": [(1, 10), (11, 66), (65, 70)],
        "person02_boxing_d1": [(1, 5), (7, 9)],
        "person13_handclapping_d3": [],
        "person21_boxing_d1": [(3, 3)],
        "person25_walking_d1": [(60, 71)],
    }


@pytest.mark.parametrize(
    "line",
    [
        "person01_boxing_d1",
        "person01_boxing_d1 frames",
        "person01_boxing_d1 1-95",
        "person01_boxing_d1 frames 1-95, 96",
        "person01_boxing_d1 frames 1-95, x-185",
        "person01_boxing_d1 frames 0-95",
        "person01_boxing_d1 frames 95-1",
        "person01_boxing_d1 frames 1-95 and more",
    ],
)
def test_a_malformed_line_is_named(tmp_path, line):
    path = tmp_path / SEQUENCES
    path.write_text(f"Prose.\n\n{line}\nperson02_boxing_d1 frames 1-2\n")
    with pytest.raises(UserError, match=r"00sequences\.txt, line 3: .* is malformed") as caught:
        read_sequences(path)
    assert repr(line) in str(caught.value)


def test_an_empty_list_is_rejected(tmp_path):
    path = tmp_path / SEQUENCES
    path.write_text("<html>The page has moved.</html>")
    with pytest.raises(UserError, match=r"00sequences\.txt: lists no videos\. Delete the file"):
        read_sequences(path)


def test_a_missing_list(tmp_path):
    with pytest.raises(
        UserError, match=r"No such file.*https://www\.csc\.kth\.se/cvap/actions/00seq"
    ):
        read_sequences(tmp_path / SEQUENCES)


def test_stamps_and_notes_of_ranges_are_those_of_their_video(folder, tmp_path):
    source = KthActions(archives_dir=str(folder), kth_sequences=True)
    whole = KthActions(archives_dir=str(folder)).stamps()
    stamps = source.stamps()
    assert stamps.keys() == {*source.items("train"), *source.items("test")}
    for item, stamp in stamps.items():
        assert stamp == whole[item.partition("#")[0]]
    assert len(set(whole.values())) == len(whole)
    notes = []
    list(source.read("train", "person02_boxing_d1_uncomp.avi#7-9", notes.append))
    assert "only frames 7 to 9 of the video, from 1, as in 00sequences.txt" in notes
    assert any("cut to the middle 120x120, resized to 64x64 (area)" in note for note in notes)
    # Without the list, the items are unknown.
    assert KthActions(archives_dir=str(tmp_path), kth_sequences=True).stamps() is None
