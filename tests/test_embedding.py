"""t-SNE: clusters stay clusters, numbers tell them from shuffled labels, and seeds decide the points."""

import numpy as np
import pytest
from sklearn.manifold import TSNE

from utils import embedding
from utils.embedding import embed_tsne, embedding_quality


@pytest.fixture(scope="module")
def clusters():
    """Three far-off clusters of 20 points in 16 dimensions, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    return (rng.normal(size=(60, 16)) + 20 * np.eye(16)[labels]).astype("float32"), labels


@pytest.fixture(scope="module")
def points(clusters):
    return embed_tsne(clusters[0], perplexity=10, seed=3)


def test_clusters_stay_apart(clusters, points):
    features, labels = clusters
    assert points.shape == (60, 2) and points.dtype == np.float32
    quality = embedding_quality(features, points, labels)
    assert quality["purity"] == 1
    assert quality["silhouette"] > 0.7 and quality["trustworthiness"] > 0.9


def test_shuffled_labels_score_low(clusters, points):
    features, labels = clusters
    quality = embedding_quality(features, points, np.random.default_rng(0).permutation(labels))
    assert quality["purity"] < 0.6 and quality["silhouette"] < 0.1
    assert quality["trustworthiness"] > 0.9  # knows of no labels


def test_points_that_lost_their_neighbours_are_not_trustworthy(clusters, points):
    features, labels = clusters
    shuffled = np.random.default_rng(0).permutation(points)
    assert embedding_quality(features, shuffled, labels)["trustworthiness"] < 0.6


def test_no_point_votes_for_itself():
    """In each pair the nearest other point has the other label."""
    points = np.array([[10 * k + d, 0] for k in range(6) for d in (0, 1)], "float32")
    labels = [0, 1] * 6
    assert embedding_quality(points, points, labels, neighbours=1)["purity"] == 0


def test_purity_by_hand():
    """Two groups of four, one point of the first labelled wrongly: 3 + 4 of 8 are outvoted by none."""
    points = np.array([[x, y] for x in (0, 1, 100, 101) for y in (0, 1)], "float32")
    quality = embedding_quality(points, points, [0, 0, 0, 1, 1, 1, 1, 1], neighbours=3)
    assert quality["purity"] == 7 / 8


def test_same_seed_gives_the_same_points(clusters, points, monkeypatch):
    """Few points have the same start whatever the seed; so it is also seen to reach scikit-learn."""
    assert np.array_equal(points, embed_tsne(clusters[0], perplexity=10, seed=3))
    asked = {}

    def record(*args, **settings):
        asked.update(settings)
        return TSNE(*args, **settings)

    monkeypatch.setattr(embedding, "TSNE", record)
    embed_tsne(clusters[0][:12], perplexity=3, seed=7)
    assert asked["random_state"] == 7 and asked["init"] == "pca"


def test_perplexity_counts(clusters, points):
    assert not np.allclose(points, embed_tsne(clusters[0], perplexity=30, seed=3))


@pytest.mark.parametrize("perplexity", [-1, 0, 60, 61])
def test_impossible_perplexity_is_named_with_its_limits(perplexity, clusters):
    with pytest.raises(ValueError, match=f"between 0 and 60, not be {perplexity}"):
        embed_tsne(clusters[0], perplexity, seed=0)


def test_equal_features_of_a_collapsed_network_do_not_crash():
    features, labels = np.full((18, 8), 0.5, "float32"), np.repeat([0, 1], 9)
    points = embed_tsne(features, 4, 0)
    assert points.shape == (18, 2) and points.dtype == np.float32 and not points.any()
    quality = embedding_quality(features, points, labels)
    assert np.isfinite(list(quality.values())).all() and quality["silhouette"] == 0
