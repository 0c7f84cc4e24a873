"""An image of the reader's: distances by hand, patients left out, refusal, and errors that help."""

import sys
import types

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from utils.images import ImageError, read_xray
from utils.own_xray import OwnImageError, find_image, leave_patient_out_distances, nearest, refusal_limit


def directions(*degrees):
    """Unit vectors in the plane: the cosine distance of two is 1 - cos of the angle between them."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def gap(degrees):
    return 1 - np.cos(np.radians(degrees))


def test_nearest_by_hand():
    """Seen from 10 degrees: 0, 30 and 90 degrees are 10, 20 and 80 off; length does not count."""
    train = directions(90, 0, 30) * [[5], [0.1], [1]]
    distances, positions = nearest(train, directions(10, 85), k=2)
    assert positions.tolist() == [[1, 2], [0, 2]]
    np.testing.assert_allclose(distances, [[gap(10), gap(20)], [gap(5), gap(55)]], atol=1e-12)


def test_image_that_is_in_the_training_set_lies_at_zero():
    train = np.random.default_rng(0).uniform(size=(9, 20)).astype("float32")
    distances, positions = nearest(train, train[4:5])
    assert positions[0, 0] == 4 and distances[0, 0] == pytest.approx(0, abs=1e-6) and distances[0, 1] > 1e-3


def test_nearest_needs_enough_images_of_the_same_length():
    with pytest.raises(ValueError, match="n_neighbors"):
        nearest(directions(0, 10), directions(5), k=3)
    with pytest.raises(ValueError, match="features"):
        nearest(directions(0, 10), np.ones((1, 3)), k=1)


def test_leave_patient_out_by_hand():
    """Images at 0 and 1 degrees are one patient's: neither counts for the other."""
    distances = leave_patient_out_distances(directions(0, 1, 30, 50), ["a", "a", "b", "c"], k=2)
    expected = [(30, 50), (29, 49), (20, 29), (20, 49)]
    np.testing.assert_allclose(distances, [np.mean([gap(x) for x in pair]) for pair in expected], atol=1e-12)


def test_leave_patient_out_is_the_distance_to_a_training_set_without_the_patient():
    rng = np.random.default_rng(1)
    features, patients = rng.uniform(size=(30, 8)), rng.choice(list("abcdef"), 30)
    found = leave_patient_out_distances(features, patients, k=3)
    for k, patient in enumerate(patients):
        distances, _ = nearest(features[patients != patient], features[k : k + 1], k=3)
        assert found[k] == pytest.approx(distances.mean(), abs=1e-12)


@pytest.mark.parametrize("k", [0, 3])
def test_k_must_fit_the_images_of_other_patients(k):
    with pytest.raises(ValueError, match=f"between 1 and 2, the images of other patients, not be {k}"):
        leave_patient_out_distances(directions(0, 1, 30, 50), ["a", "a", "b", "c"], k)


def test_there_must_be_a_patient_for_each_image():
    with pytest.raises(ValueError, match="not 1 for 2"):
        leave_patient_out_distances(directions(0, 1), ["a"], 1)


@pytest.mark.parametrize(("quantile", "limit"), [(0.99, 99), (0.985, 99), (0.5, 50), (1, 100)])
def test_limit_lets_its_share_in_and_is_one_of_the_distances(quantile, limit):
    distances = np.random.default_rng(0).permutation(np.arange(1, 101))
    assert refusal_limit(distances, quantile) == limit
    assert (distances <= limit).mean() >= quantile


def colours(images):
    """A stub for a network: mean red, green and blue, which tell a photograph from grey films."""
    return images.reshape(len(images), -1, 3).mean(axis=1) + 1


def test_photograph_is_refused_and_a_film_is_not(tmp_path):
    rng = np.random.default_rng(0)
    films = np.repeat(rng.integers(0, 256, (40, 8, 8, 1)), 3, axis=3) + rng.integers(0, 3, (40, 8, 8, 3))
    train, patients = colours(films[:-1]), np.arange(39).astype(str)
    limit = refusal_limit(leave_patient_out_distances(train, patients))
    Image.fromarray(load_sample_image("flower.jpg")).save(tmp_path / "photo.png")
    photo = read_xray(find_image(str(tmp_path / "photo.png"), "example.png")[0], 8)
    distances, _ = nearest(train, colours(np.stack([photo, films[-1]])))
    assert (distances.mean(axis=1) <= limit).tolist() == [False, True]


def test_black_image_without_any_feature_is_far_from_all():
    """Its cosine is not defined; scikit-learn takes it for a right angle, so that it is refused."""
    distances, _ = nearest(directions(0, 10, 20), np.zeros((1, 2)))
    np.testing.assert_allclose(distances, 1)


def test_empty_wish_takes_the_example(tmp_path):
    assert find_image("  ", tmp_path / "example.png") == (tmp_path / "example.png", False)


def test_path_is_the_readers_own(tmp_path, monkeypatch):
    (tmp_path / "mine.png").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert find_image(" ~/mine.png ", "example.png") == (tmp_path / "mine.png", True)


def test_path_of_no_file_is_named_with_the_remedy(tmp_path):
    for wish in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(OwnImageError, match="is no file. Remedy: set IMAGE") as error:
            find_image(str(wish), "example.png")
        assert str(wish) in str(error.value)


def test_file_that_is_no_image_is_named_with_the_remedy(tmp_path):
    (tmp_path / "mine.png").write_text("no image")
    path, _ = find_image(str(tmp_path / "mine.png"), "example.png")
    with pytest.raises(ImageError, match=r"mine.png is no image .*Remedy"):
        read_xray(path)


def test_upload_is_offered_on_colab_only():
    assert "google.colab" not in sys.modules
    with pytest.raises(OwnImageError, match="Only Colab can upload. Remedy: set IMAGE"):
        find_image("upload", "example.png")


@pytest.fixture
def colab(monkeypatch):
    """A stand-in for Colab's module; returns a function that sets what the reader uploads."""

    def upload(answer):
        module = types.ModuleType("google.colab")
        module.files = types.SimpleNamespace(upload=lambda: answer)
        monkeypatch.setitem(sys.modules, "google.colab", module)

    return upload


def test_uploaded_file_is_the_readers_own(colab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.png").touch()
    colab({"mine.png": b""})
    path, is_own = find_image("Upload", "example.png")
    assert path.name == "mine.png" and path.is_file() and is_own


def test_upload_without_a_file_says_what_to_do(colab):
    colab({})
    with pytest.raises(OwnImageError, match="No file was uploaded. Remedy"):
        find_image("upload", "example.png")
