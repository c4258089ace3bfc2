import numpy as np
import polars as pl
import pytest
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.preprocessing import StandardScaler

from recsys.segments.behaviour import behaviour
from recsys.segments.clusters import AXES, Clustering, Trial, choose, fit_kmeans, fit_space, fit_tree
from tests.segments.conftest import micros

BARS = {"min_share": 0.02, "min_stability": 0.8}


@pytest.fixture(scope="module")
def blobs():
    """Three heaps of 60 points, far apart, in an order that says nothing."""
    chance = np.random.default_rng(0)
    points = np.concatenate([chance.normal(center, 0.3, (60, 2)) for center in ((0, 0), (6, 0), (0, 6))])
    truth = np.repeat([0, 1, 2], 60)
    order = chance.permutation(180)
    return points[order], truth[order]


def fit(points, method, ks=range(2, 7)):
    if method == "kmeans":
        return fit_kmeans(points, ks, seeds=4, seed=0, **BARS)
    return fit_tree(points, ks, method, min_share=0.02)


@pytest.mark.parametrize("method", ["kmeans", "ward", "complete"])
def test_heaps_are_found(blobs, method):
    points, truth = blobs
    found = fit(points, method)
    assert len(found.centroids) == 3
    assert adjusted_rand_score(found.assign(points), truth) == 1
    assert found.agreement == 1
    assert found.centroids[:, 0].tolist() == sorted(found.centroids[:, 0], reverse=True)


@pytest.mark.parametrize("method", ["kmeans", "ward", "complete"])
def test_silhouettes_agree_with_scikit_learn(blobs, method):
    """Of the chosen number of clusters, from the labels as they are assigned."""
    points, _ = blobs
    found = fit(points, method)
    chosen = next(trial for trial in found.trials if trial.k == len(found.centroids))
    assert chosen.silhouette == pytest.approx(silhouette_score(points, found.assign(points)))
    assert [trial.k for trial in found.trials] == [2, 3, 4, 5, 6]
    assert chosen.silhouette == max(trial.silhouette for trial in found.trials)
    assert chosen.smallest == pytest.approx(1 / 3)


def test_the_last_seeds_count_on_from_the_first(blobs):
    points, truth = blobs
    assert adjusted_rand_score(fit_kmeans(points, [3], seeds=2, seed=2**32 - 1, **BARS).assign(points), truth) == 1


def test_seeds_agree_where_there_are_heaps_and_not_where_there_are_none(blobs):
    heaps = {trial.k: trial.stability for trial in fit(blobs[0], "kmeans").trials}
    noise = {trial.k: trial.stability for trial in fit(np.random.default_rng(0).normal(size=(200, 6)), "kmeans").trials}
    assert heaps[3] == 1
    assert noise[6] < 0.8


def test_choice_passes_over_unstable_and_tiny_clusters():
    trials = [Trial(3, 0.6, 0.5, 0.2), Trial(4, 0.5, 0.9, 0.01), Trial(5, 0.4, 0.9, 0.1), Trial(6, 0.4, 0.9, 0.1)]
    assert choose(trials, 0.02, 0.8).k == 5
    assert choose(trials[:2], 0.02, 0.8).k == 3  # none passes, so all count
    assert choose([Trial(2, 0.3, None, 0.5)], 0.02, 0.8).k == 2


def test_tree_is_cut_between_two_merges(blobs):
    from scipy.cluster.hierarchy import fcluster

    points, truth = blobs
    found = fit(points, "ward")
    assert found.linkage is not None
    assert adjusted_rand_score(fcluster(found.linkage, found.height, "distance"), truth) == 1


@pytest.mark.parametrize("method", ["kmeans", "ward", "complete"])
@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.zeros((5, 0)), np.zeros((1, 2)), np.array([[0.0], [1.0]])])
def test_too_few_different_users_make_one_cluster(points, method):
    found = fit(points, method)
    assert found.trials == ()
    assert found.assign(points).tolist() == [1] * len(points)


def test_no_more_clusters_than_different_points():
    points = np.repeat(np.array([[0.0], [1.0], [5.0]]), 4, axis=0)
    assert [trial.k for trial in fit(points, "kmeans", range(2, 9)).trials] == [2, 3]
    assert [trial.k for trial in fit(points, "complete", range(2, 9)).trials] == [2, 3]


def test_merges_of_one_height_are_not_parted():
    square = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    tree = fit(square, "complete", [2, 3])
    assert 3 not in [trial.k for trial in tree.trials]


def test_assign_is_the_nearest_centroid():
    centroids = np.array([[0.0, 0.0], [4.0, 0.0]])
    points = np.array([[1.9, 3.0], [2.1, -3.0], [9.0, 9.0]])
    assert Clustering(centroids, (), 1.0).assign(points).tolist() == [1, 2, 2]
    assert Clustering(centroids, (), 1.0).assign(points[:0]).tolist() == []


def test_space_is_logarithmic_and_standardised(planted):
    events, _ = planted
    table = behaviour(events, micros(200))
    space = fit_space(table)
    assert space.axes == tuple(axis for axis in AXES if axis != "others")
    raw = table.select(pl.col(space.axes[:-1]).log1p(), "repeat").to_numpy()
    np.testing.assert_allclose(space.points(table), StandardScaler().fit_transform(raw), atol=1e-4)


def test_awkward_numbers_have_a_place(planted):
    table = behaviour(planted[0], micros(200))
    odd = table.with_columns(
        spend=pl.Series([float("inf"), float("-inf"), float("nan"), *table["spend"][3:]]), monetary=pl.lit(-1.0)
    )
    assert np.isfinite(fit_space(odd).points(odd)).all()
