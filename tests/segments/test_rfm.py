import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.segments.rfm import NAMES, fit_rfm


def table_of(recency, frequency, monetary):
    return pl.DataFrame(
        {"recency": recency, "frequency": frequency, "monetary": monetary},
        schema={"recency": pl.Float64, "frequency": pl.Int64, "monetary": pl.Float64},
    )


def scores(table, scale=None):
    found = (scale or fit_rfm(table)).score(table)
    return [found[f"rfm_{axis}"].to_list() for axis in ("recency", "frequency", "monetary")]


def test_ten_users_by_hand():
    """Ranks 1 to 10 make two users a score; the least recency is the best."""
    table = table_of(
        [1, 2, 3, 5, 8, 13, 21, 34, 55, 89],
        [9, 30, 8, 5, 7, 4, 2, 3, 1, 10],
        [50, 90, 20, 40, 10, 30, 80, 60, 70, 5],
    )
    found = fit_rfm(table).score(table)
    assert found["rfm_recency"].to_list() == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1]
    assert found["rfm_frequency"].to_list() == [4, 5, 4, 3, 3, 2, 1, 2, 1, 5]
    assert found["rfm_monetary"].to_list() == [3, 5, 2, 3, 1, 2, 5, 4, 4, 1]
    assert found["rfm"].to_list() == [
        "champions",  # 5, mean of 4 and 3 up to 4
        "champions",  # 5, 5
        "loyal",  # 4, 3
        "loyal",  # 4, 3
        "needs_attention",  # 3, 2
        "needs_attention",  # 3, 2
        "at_risk",  # 2, 3
        "at_risk",  # 2, 3
        "at_risk",  # 1, mean of 1 and 4 up to 3
        "at_risk",  # 1, 3
    ]


def test_ties_share_the_mean_of_their_ranks():
    """Of ten users six bought once: mean rank 3.5, so (3.5 - 0.5) / 10 lies in the second fifth."""
    table = table_of([4.0] * 10, [1] * 6 + [2, 2, 3, 4], [7.0] * 10)
    recency, frequency, monetary = scores(table)
    assert frequency == [2] * 6 + [4, 4, 5, 5]
    assert recency == monetary == [3] * 10


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_few_users(n):
    spread = [1 + int(5 * (rank + 0.5) / n) for rank in range(n)]
    assert scores(table_of([1.0] * n, list(range(1, n + 1)), [1.0] * n))[1] == spread


def test_others_are_scored_by_the_fitted_bounds():
    scale = fit_rfm(table_of([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [10, 20, 30, 40, 50]))
    later = table_of([0.5, 2.5, 99, None], [1, 9, 3, 0], [49.9, 50.0, -3.0, None])
    assert scores(later, scale) == [[5, 3, 1, None], [1, 5, 3, None], [4, 5, 1, None]]
    assert scale.score(later)["rfm"][3] is None


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.randoms())
def test_equal_values_never_get_different_scores_and_more_is_never_worse(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    table, other = (table_of([1.0] * len(v), v, [1.0] * len(v)) for v in (values, shuffled))
    assert fit_rfm(table) == fit_rfm(other)
    pairs = sorted(zip(values, scores(table)[1], strict=True))
    assert len(set(pairs)) == len(set(values))
    assert [score for _, score in pairs] == sorted(score for _, score in pairs)


def test_every_cell_has_a_name():
    assert [len(line) for line in NAMES] == [5] * 5
    assert NAMES[4][4] == "champions"
    assert NAMES[0][0] == "lost"
