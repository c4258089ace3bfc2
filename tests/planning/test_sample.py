"""What a sample of the events says of types that the configuration names."""

from pathlib import Path

import polars as pl
import pytest

from recsys.config.data import DataConfig
from recsys.data.sources import resolve
from recsys.planning.sample import type_problems
from recsys.planning.tables import glimpse, header


@pytest.mark.parametrize(
    ("relevant", "is_problem"),
    [
        (["purchase", "purchase_gift"], False),  # too rare for the sample, maybe
        (["purchase", "purchse"], False),
        (["purchse"], True),
        (["view", "purchse"], True),
    ],
)
def test_a_name_is_misspelt_if_one_like_it_is_not_meant_itself(
    relevant: list[str], is_problem: bool, tmp_path: Path
) -> None:
    types = ["view" if i % 3 else "purchase" for i in range(20_000)]
    columns = {"user_id": range(20_000), "item_id": [1] * 20_000, "timestamp": range(20_000), "event_type": types}
    pl.DataFrame(columns).write_parquet(tmp_path / "events.parquet")
    cfg = resolve(DataConfig(name="shop", events=str(tmp_path / "events.parquet"), relevant=relevant))
    problems, notes = type_problems(cfg, glimpse(header("events", str(tmp_path / "events.parquet"), cfg), 1000))
    assert (len(problems), len(notes)) == (int(is_problem), int(not is_problem))
    assert f"data.relevant names '{relevant[-1]}', which never occurs among 1,000 rows" in (problems + notes)[0]
