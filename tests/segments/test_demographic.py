import polars as pl
import pytest

from recsys.errors import ConfigError
from recsys.segments.demographic import fit_demographic

USERS = pl.DataFrame(
    {
        "user_id": range(1, 9),
        "town": ["Bonn", "Bonn", "Bonn", "Ulm", "Ulm", None, "Rom", "Rom"],
        "sex": ["f", "m", "f", "f", None, None, "m", "m"],
    }
)
SEEN = pl.DataFrame({"user_id": range(1, 8)})


def test_one_attribute():
    groups = fit_demographic(USERS, SEEN, ["town"], 0.2)
    assert groups is not None
    assert groups.assign(USERS).to_list() == ["Bonn", "Bonn", "Bonn", "Ulm", "Ulm", "unknown", "other", "other"]


def test_several_attributes_and_missing_values():
    groups = fit_demographic(USERS, SEEN, ["town", "sex"], 0.0)
    assert groups is not None
    assert groups.assign(USERS)[[0, 4, 5]].to_list() == ["Bonn / f", "Ulm / unknown", "unknown"]
    unseen = pl.DataFrame({"user_id": [99], "town": ["Oslo"], "sex": ["f"]})
    assert groups.assign(unseen).to_list() == ["other"]


def test_numbers_are_cut_into_quarters_of_those_seen():
    users = pl.DataFrame({"user_id": range(41), "age": [*range(20, 60), None]})
    groups = fit_demographic(users, users[:40], ["age"], 0.0)
    assert groups is not None
    found = groups.assign(users)
    names = ["below 30", "30 to below 40", "40 to below 50", "from 50"]
    assert found.unique(maintain_order=True).to_list() == [*names, "unknown"]
    assert found[40] == "unknown"
    assert groups.assign(pl.DataFrame({"user_id": [1, 2], "age": [5, 300]})).to_list() == [names[0], names[-1]]


def test_users_without_events_do_not_count():
    later = USERS.with_columns(town=pl.when(pl.col("user_id") == 8).then(pl.lit("Oslo")).otherwise("town"))
    assert fit_demographic(USERS, SEEN, None, 0.1) == fit_demographic(later, SEEN, None, 0.1)


def test_the_first_fitting_attribute_is_taken():
    users = USERS.with_columns(name=pl.Series(f"n{i}" for i in range(8)), one=pl.lit("x"))
    groups = fit_demographic(users.select("user_id", "one", "sex", "town"), SEEN, None, 0.1)
    assert groups is not None
    assert groups.attributes == ("sex",)
    assert fit_demographic(users.select("user_id", "one"), SEEN, None, 0.1) is None
    assert fit_demographic(users, SEEN, [], 0.1) is None


def test_an_attribute_that_is_named_twice_is_refused():
    users = pl.DataFrame({"user_id": [1, 2], "sex": ["f", "m"]})
    with pytest.raises(ConfigError, match=r"segments\.demographics: sex, sex: one is named twice"):
        fit_demographic(users, users, ["sex", "sex"], 0.0)


def test_bounds_are_told_apart_however_large():
    users = pl.DataFrame({"user_id": range(100), "income": [1_234_567 + 13 * (i % 25) for i in range(100)]})
    groups = fit_demographic(users, users, ["income"], 0.0)
    assert groups is not None
    assert len(groups.groups) == 4
    assert "1234645" in " ".join(groups.groups)


def test_unknown_attribute_is_refused():
    with pytest.raises(ConfigError, match=r"segments.demographics: 'twon' .* Did you mean 'town'\?"):
        fit_demographic(USERS, SEEN, ["twon"], 0.1)
