"""People whom the bundle does not know: by what they say, where they ask, or nothing at all."""

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
import torch

from recsys.bundle.cold import group_codes, told_context
from recsys.bundle.reader import Bundle
from recsys.data.encode import Encoder
from recsys.data.ranking_state import CandidatePlan
from recsys.errors import BundleError
from recsys.features import Feature, FeatureSpec


def said(*segments: str | None) -> pl.DataFrame:
    return pl.DataFrame({"segment": segments}, schema={"segment": pl.String})


def test_attributes_of_a_stranger_reach_the_user_tower(bundle: Bundle) -> None:
    tower = torch.jit.load(str(bundle.folder / "user_tower.pt"))
    encoder = Encoder.load(bundle.folder / "vocabularies")
    known = encoder.vocabularies["segment"].values.to_list()
    ids = [known.index("s2") + 2, 1, 0]  # known, unseen, not told
    by_hand = {
        "user_id": torch.zeros(3, dtype=torch.int64),
        "segment": torch.tensor(ids),
        "device": torch.zeros(3, dtype=torch.int64),
        "timestamp": torch.zeros(3, 3, dtype=torch.int64),
        "history/item_id": torch.zeros(3, 1, dtype=torch.int64),
        "history/category": torch.zeros(3, 1, dtype=torch.int64),
        "history/tags": torch.zeros(3, 1, 2, dtype=torch.int64),
        "history/price": torch.full((3, 1), float("nan")),
        "history/age": torch.zeros(3, 1),
        "history/repeats": torch.zeros(3, 1, dtype=torch.int64),
    }
    with torch.inference_mode():
        expected = tower(by_hand)
    found = bundle.embed_users([None] * 3, attributes=said("s2", "s99", None))
    torch.testing.assert_close(found, expected)
    assert torch.equal(found[2], bundle.embed_users([None])[0])
    assert not torch.equal(found[0], found[2])


def test_a_context_is_written_as_that_of_the_events_was() -> None:
    columns = {"promo": [True, None], "since": [date(2024, 1, 1), None], "store": [" ", "n"], "note": [[1], [2]]}
    spec = FeatureSpec(tuple(Feature(name, "context", "id") for name in ("promo", "since", "store")))
    found = told_context(pl.DataFrame(columns), 2, spec)
    assert found.to_dict(as_series=False) == {
        "promo": ["true", None], "since": [19723.0, None], "store": [None, "n"], "note": [[1], [2]]
    }  # fmt: skip
    with pytest.raises(BundleError, match="context, column 'store': type Duration"):
        told_context(pl.DataFrame({"store": [timedelta(1)]}), 1, spec)


def test_recommend_uses_them_and_a_null_says_nothing(bundle: Bundle) -> None:
    plain = bundle.recommend([None], 150)
    told = bundle.recommend([None, None, None], 150, attributes=said("s2", None, "s3"))
    parts = [told.slice(start, 149) for start in (0, 149, 298)]
    assert len(plain) == 149
    assert parts[1].drop("score").equals(plain.drop("score"))
    assert parts[0]["item_id"].to_list() != plain["item_id"].to_list()
    vectors = bundle.embed_users([None] * 3, attributes=said("s2", None, "s3"))
    exact = (vectors @ bundle.item_vectors.T).masked_fill(~bundle.eligible, -torch.inf)
    best = bundle.item_ids.gather(exact.argmax(1).numpy()).to_list()
    assert [part["item_id"][0] for part in parts] == best


def test_they_stand_in_place_of_what_is_known_of_a_user(bundle: Bundle) -> None:
    user = bundle.users.filter(pl.col("segment") == "s1")["user_id"][0]
    for told in ("s1", None):
        torch.testing.assert_close(bundle.embed_users([user], attributes=said(told)), bundle.embed_users([user]))
    assert not torch.allclose(bundle.embed_users([user], attributes=said("s3")), bundle.embed_users([user]))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (said("s1", "s2"), "attributes: 2 rows given for 1 users; give one for each."),
        (pl.DataFrame({"segmant": ["s1"]}), "is no attribute of this bundle's users; legal: segment. Did you mean"),
        (pl.DataFrame({"user_id": [7]}), "'user_id' is no attribute"),
        (pl.DataFrame({"segment": [7]}), "column 'segment' is Int64 in 1 rows; in the bundle it is text."),
        (pl.DataFrame({"segment": [{"a": 1}]}), "not legal for an attribute"),
    ],
)  # fmt: skip
def test_what_is_refused(bundle: Bundle, attributes: pl.DataFrame, message: str) -> None:
    for ask in (bundle.embed_users, bundle.recommend):
        with pytest.raises(BundleError, match="attributes") as caught:
            ask([None], attributes=attributes)
        assert message in str(caught.value)


def test_nothing_is_answered_with_what_the_model_says_of_nobody(trained: Any) -> None:
    ranked = Bundle.load(trained.bundle)
    nothing = ranked.recommend([None], 20)
    assert nothing.equals(ranked.recommend([None], 20, histories=[[]]))
    assert ranked.recommend(["nobody"], 20)["item_id"].to_list() == nothing["item_id"].to_list()
    assert nothing["score"].is_sorted(descending=True)
    cut = datetime.fromisoformat(ranked.manifest.cut)
    assert ranked.recommend([None], 20, as_of=cut)["item_id"].to_list() == nothing["item_id"].to_list()


def test_the_ranker_reads_what_a_stranger_says(trained: Any) -> None:
    ranked = Bundle.load(trained.bundle)
    assert ranked.ranking is not None
    ids = ranked.embed_users([None], attributes=said("a")) - ranked.embed_users([None], attributes=said("b"))
    assert float(ids.abs().max()) > 0
    answers = [ranked.recommend([None], 80, attributes=said(told)) for told in ("a", "b", None)]
    assert answers[0]["score"].to_list() != answers[1]["score"].to_list()
    assert answers[2].equals(ranked.recommend([None], 80))


def test_a_stranger_gets_what_is_popular_in_the_group_they_name(trained: Any) -> None:
    ranked = Bundle.load(trained.bundle)
    assert ranked.ranking is not None
    state = ranked.ranking.state
    values = Encoder.load(ranked.folder / "vocabularies").vocabularies["segment"].values.to_list()
    code = {value: place + 2 for place, value in enumerate(values)}
    lists = torch.full((max(code.values()) + 2, 3), -1)
    lists[code["a"]], lists[code["b"]], lists[-1] = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    groups = torch.tensor([code[segment] for segment in ranked.users["segment"]])
    plan = CandidatePlan(3, {"popular_in_group": 3}, {}, "segment")
    ranked.ranking.state = replace(
        state, candidate_plan=plan, tables=replace(state.tables, popular=lists, groups=groups)
    )

    def rows(told: str | None) -> list[int]:
        _, requests = ranked._asked(ranked._asking([None], None, None, None, said(told)))
        assert requests is not None
        return list(ranked.ranking.state.sources()["popular_in_group"](requests.asked, 3)[0].tolist())

    assert [rows("a"), rows("b"), rows("never heard of"), rows(None)] == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [7, 8, 9]]


def test_groups_of_strangers_by_where_they_ask(bundle: Bundle) -> None:
    encoder = Encoder.load(bundle.folder / "vocabularies")
    known = encoder.vocabularies["device"].values.to_list()
    where = pl.DataFrame({"device": ["d1", None, "unseen"]})
    assert group_codes("device", encoder, {}, where, 3).tolist() == [known.index("d1") + 2, -1, -1]
    people = {"segment": torch.tensor([3, 0, 1])}
    assert group_codes("segment", encoder, people, where, 3).tolist() == [3, -1, -1]
    for nowhere in (None, pl.DataFrame({"other": [1, 2, 3]})):
        assert group_codes("device", encoder, people, nowhere, 3).tolist() == [-1] * 3
    assert group_codes("", encoder, people, where, 3).tolist() == [-1] * 3


def test_an_item_that_nobody_knows_leaves_nothing_out(trained: Any, bundle: Bundle) -> None:
    """Its row is the number of items: of the next request that would be the first item."""
    ranked = Bundle.load(trained.bundle)
    told = ranked.recommend([None, None], 80, histories=[["from elsewhere"], None], exclude_seen=True)
    assert len(told) == 160
    assert ranked.item_ids[0] in told["item_id"][80:]
    assert len(bundle.recommend([None], 149, histories=[[424242]], exclude_seen=True)) == 149
