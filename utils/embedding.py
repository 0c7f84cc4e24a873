"""t-SNE of features, and numbers for what the eye sees in it."""

import numpy as np
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier


def embed_tsne(features, perplexity, seed):
    """Embed features in the plane by t-SNE (van der Maaten and Hinton, 2008), started from their PCA.

    Parameters
    ----------
    features : float [n, d].
    perplexity : float below n, the effective number of neighbours.

    Returns
    -------
    float32 [n, 2]; all at the origin where all features are equal, as those of a collapsed network.

    Raises
    ------
    ValueError
        If the perplexity is not between 0 and n.
    """
    if not 0 < perplexity < len(features):
        raise ValueError(f"the perplexity must lie between 0 and {len(features)}, not be {perplexity}")
    if not np.ptp(features, axis=0).any():  # scikit-learn would divide by 0, and the process would crash
        return np.zeros((len(features), 2), "float32")
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def embedding_quality(features, points, labels, neighbours=5):
    """Numbers for an embedding: does it keep the neighbours, and do the classes lie apart?

    Returns
    -------
    dict of float: "trustworthiness" (1 where all neighbours in the plane are neighbours in the features,
    down to 0; Venna and Kaski, 2001), "silhouette" of the classes in the plane (-1 to 1), "purity" (share
    of points whose nearest other points in the plane, by vote, are of their class).
    """
    vote = KNeighborsClassifier(neighbours).fit(points, labels)
    # Without an argument scikit-learn leaves each point out of its own neighbours.
    nearest = vote.kneighbors(return_distance=False)
    labels = np.asarray(labels)
    winners = [np.bincount(labels[row]).argmax() for row in nearest]
    return {
        "trustworthiness": float(trustworthiness(features, points, n_neighbors=neighbours)),
        "silhouette": float(silhouette_score(points, labels)),
        "purity": float(np.mean(np.array(winners) == labels)),
    }
