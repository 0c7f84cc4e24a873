"""Images decoded on demand and features in a file: the same numbers as in memory, and never half a file."""

import keras
import numpy as np
import pytest
from PIL import Image

from utils.features import frozen_features
from utils.images import ImageError, read_xrays
from utils.streams import XrayFiles, array_file, open_rows


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{k}.png" for k in range(7)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 30), dtype="uint8")).save(path)
    return paths


@pytest.fixture(scope="module")
def base():
    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, keras.layers.Flatten()(keras.layers.Conv2D(2, 5, strides=4)(inputs / 255.0)))


def test_slices_are_those_of_all_images(paths):
    lazy, images = XrayFiles(paths, 16), read_xrays(paths, 16, progress=False)
    assert len(lazy) == 7 and lazy.shape == images.shape
    for rows in (slice(0, 3), slice(5, 20), slice(None, None, 2)):
        assert np.array_equal(lazy[rows], images[rows])
    assert len(lazy[7:10]) == 0


def test_streamed_features_are_those_in_memory(paths, base, tmp_path, monkeypatch):
    """From files, to a file; at no time are more images decoded than two batches."""
    counts = []
    monkeypatch.setattr(
        "utils.streams.read_xrays", lambda p, *a, **k: counts.append(len(p)) or read_xrays(p, *a, **k)
    )
    expected = frozen_features(base, read_xrays(paths, 16, progress=False), 3, progress=False)
    result = frozen_features(base, XrayFiles(paths, 16), 3, progress=False, file=tmp_path / "new" / "f.npy")
    assert isinstance(result, np.memmap) and not result.flags.writeable
    assert np.array_equal(result, expected) and result.dtype == np.float32
    assert max(counts) == 3 and sum(counts) == 7
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["f.npy"]


def test_a_bad_image_in_the_middle_is_named_and_leaves_no_file(paths, base, tmp_path):
    paths[5].write_bytes(b"no image")
    with pytest.raises(ImageError, match="5.png"):
        frozen_features(base, XrayFiles(paths, 16), 3, progress=False, file=tmp_path / "new" / "f.npy")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_with_too_few_rows_is_not_kept(tmp_path):
    with pytest.raises(ValueError, match="lacks 2 rows"), array_file(tmp_path / "f.npy") as write:
        write(np.zeros((3, 4), "float32"), 5)
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
    np.save(tmp_path / "f.npy", np.ones((1, 2), "float32"))
    with pytest.raises(KeyboardInterrupt), array_file(tmp_path / "f.npy") as write:
        write(np.zeros((1, 2)), 1)
        raise KeyboardInterrupt
    assert np.array_equal(open_rows(tmp_path / "f.npy"), np.ones((1, 2)))


def test_no_pickle_is_opened(tmp_path):
    np.save(tmp_path / "f.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError):
        open_rows(tmp_path / "f.npy")
