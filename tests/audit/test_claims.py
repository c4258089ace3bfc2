"""What other splits would have claimed, on logs whose figures are known."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.audit.claims import HEADINGS, claim_cells, split_claims
from recsys.data.dataset import interaction_log, microseconds

HOUR = 3_600_000_000


def by_split(claims, model: str) -> dict:
    return {claim.split: claim for claim in claims if claim.model == model}


def test_a_fashion_that_changes_at_the_cut(log_of) -> None:
    """Everybody takes the items 0 to 3 before the cut and 40 to 43 after it: only a look ahead finds these."""
    rows = [(user, item, hour * HOUR) for user in range(20) for hour, item in enumerate((0, 1, 2, 3))]
    rows += [(user, 40 + n, (10 + n) * HOUR) for user in range(20) for n in range(4)]
    claims = by_split(split_claims(log_of(rows, 20, 200), 10 * HOUR, 20 * HOUR, ["popular"]), "popular")
    assert (claims["temporal"].ndcg, claims["temporal"].from_later, claims["temporal"].users) == (0.0, 0.0, 20)
    assert claims["random"].recall == 1.0
    assert claims["random"].from_later == 1.0
    assert claims["leave one out"].users == 20
    # The last item of each user is item 43, which nobody else has left in the past.
    assert claims["leave one out"].recall == 0.0


def test_leave_one_out_takes_the_last_of_those_who_have_two(log_of) -> None:
    rows = [(0, 1, HOUR), (0, 2, 3 * HOUR), (1, 2, HOUR), (2, 2, HOUR), (2, 1, 2 * HOUR), (1, 1, 5 * HOUR)]
    irrelevant = [(0, 3, 4 * HOUR, None, False)]
    found = split_claims(log_of(rows + irrelevant, 3, 50), 3 * HOUR, 9 * HOUR, ["popular"])
    claims = by_split(found, "popular")
    assert claims["leave one out"].users == 3
    assert claims["leave one out"].recall == 1.0
    assert claims["leave one out"].from_later == pytest.approx(2 / 3)  # of 2, 3 and 5 hours; the past ends at 4
    assert claims["temporal"].users == 2


@settings(max_examples=20)
@given(later=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(20, 40)), max_size=20))
def test_the_test_window_stays_closed(later, log_of) -> None:
    rows = [(user, (user * hour) % 10, hour * HOUR) for user in range(4) for hour in range(1, 20)]
    future = [(user, item, hour * HOUR) for user, item, hour in later]
    one, other = (split_claims(log_of(given_rows, 4, 10), 12 * HOUR, 20 * HOUR) for given_rows in (rows, rows + future))
    assert one == other


def test_on_the_clean_shop_other_splits_claim_more(clean) -> None:
    windows = clean.windows
    cut, until = microseconds(windows.val_start), microseconds(windows.test_start)
    claims = split_claims(interaction_log(clean), cut, until, max_users=300)
    assert claims == split_claims(interaction_log(clean), cut, until, max_users=300)
    personal = by_split(claims, "personal_frequency")
    assert personal["temporal"].from_later == 0
    assert personal["random"].ndcg > 1.2 * personal["temporal"].ndcg  # repeat cycles: the gap is filled from both ends
    assert personal["leave one out"].recall > personal["temporal"].recall
    cells = claim_cells(personal["random"], claims)
    assert len(cells) == len(HEADINGS)
    assert cells[4] == f"{personal['random'].ndcg / personal['temporal'].ndcg:.2f}"
    assert claim_cells(personal["temporal"], claims)[4] == "1.00"


def test_nothing_to_ask_for(log_of) -> None:
    once = [(user, user, user * HOUR) for user in range(9)]
    splits = {claim.split for claim in split_claims(log_of(once, 9, 9), 5 * HOUR, 9 * HOUR)}
    assert "temporal" in splits
    assert "leave one out" not in splits  # nobody has two events
    irrelevant = [(*row, None, row[2] < 5 * HOUR) for row in once]
    assert split_claims(log_of(irrelevant, 9, 9), 5 * HOUR, 9 * HOUR) == []
