"""The model's frame in, frame out, without MLflow."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys.bundle.pyfunc import _load_pyfunc
from recsys.bundle.reader import Bundle
from recsys.errors import BundleError


@pytest.fixture(scope="module")
def model(exported):
    return _load_pyfunc(str(exported[0]))


def test_users_alone(model, bundle: Bundle) -> None:
    answer = model.predict(pd.DataFrame({"user_id": [100, 7]}), {"k": 3})
    assert answer.columns.tolist() == ["user_id", "item_id", "rank", "score"]
    expected = bundle.recommend([100, 7], 3, histories=[[], []])
    assert answer["item_id"].tolist() == expected["item_id"].to_list()
    assert answer["rank"].tolist() == [1, 2, 3, 1, 2, 3]


def test_histories_and_k_a_row(model, bundle: Bundle) -> None:
    frame = pd.DataFrame({"user_id": [100, 101], "history": [np.array([1001, 1002]), None], "k": [2, None]})
    answer = model.predict(frame, {"k": 4, "exclude_seen": True})
    expected = bundle.recommend([100, 101], [2, 4], histories=[[1001, 1002], []], exclude_seen=True)
    assert answer["item_id"].tolist() == expected["item_id"].to_list()


def test_no_params_no_rows_and_a_wrong_type(model) -> None:
    assert len(model.predict(pd.DataFrame({"user_id": [100]}))) == 20
    assert model.predict(pd.DataFrame({"user_id": pd.Series([], dtype="int64")})).empty
    with pytest.raises(BundleError, match="ids are int"):
        model.predict(pd.DataFrame({"user_id": ["a"]}))


def test_types_of_events(model) -> None:
    frame = pd.DataFrame({"user_id": [100, 101], "history": [[1001, 1002], [1003]], "history_types": [["a", "b"], []]})
    answer = model.predict(frame, {"k": 3})
    assert answer.equals(model.predict(frame.drop(columns="history_types"), {"k": 3}))  # retrieval reads all events
    frame["history_types"] = [["a"], []]
    with pytest.raises(BundleError, match="history_types: 1 given for 2 events of history"):
        model.predict(frame)


@pytest.mark.parametrize("column", ["history", "items"])
def test_text_is_no_list_of_letters(model, column: str) -> None:
    with pytest.raises(BundleError, match=r"'s3' stands where a list of items belongs"):
        model.predict(pd.DataFrame({"user_id": [100], column: ["s3"]}))


def test_a_visitor_without_id(model) -> None:
    answer = model.predict(pd.DataFrame({"history": [[1000]]}), {"k": 2})
    assert answer["user_id"].isna().all()
    assert len(answer) == 2


@pytest.mark.parametrize("dtype", [object, float, "Int64"])
def test_a_visitor_beside_a_user_in_all_ways_that_pandas_has(model, bundle: Bundle, dtype: Any) -> None:
    answer = model.predict(pd.DataFrame({"user_id": pd.Series([100, None], dtype=dtype), "k": [1.0, 2.0]}))
    assert answer["user_id"].tolist() == [100, None, None]
    assert answer["item_id"].tolist() == bundle.recommend([100, None], [1, 2])["item_id"].to_list()


def test_a_float_that_may_be_two_ids_and_no_column_at_all(model) -> None:
    with pytest.raises(BundleError, match="is a float; this bundle's ids are int"):
        model.predict(pd.DataFrame({"user_id": [2.0**53, None]}))
    with pytest.raises(
        BundleError, match="columns: who; give one or more of user_id, history, history_types, items, k"
    ):
        model.predict(pd.DataFrame({"who": [100]}))


def test_a_k_of_0_says_nothing(model) -> None:
    frame = pd.DataFrame({"user_id": [100]})
    assert model.predict(frame, {"k": 0}).equals(model.predict(frame))
    with pytest.raises(BundleError, match=r"k: 2\.5 is not a whole number"):
        model.predict(frame.assign(k=2.5))


def test_a_touchpoint_and_what_its_request_brings(trained: Any) -> None:
    bundle = Bundle.load(trained.bundle)
    frame = pd.DataFrame({"user_id": ["u1", "u2"], "items": [["i3"], None]})
    answer = _load_pyfunc(str(trained.bundle)).predict(frame, {"touchpoint": "cart", "k": 7})
    expected = bundle.recommend(["u1", "u2"], 7, touchpoint="cart", items=[["i3"], []])
    assert answer["item_id"].tolist() == expected["item_id"].to_list()


def test_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        _load_pyfunc(str(tmp_path))
