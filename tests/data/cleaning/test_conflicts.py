import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from recsys.data.cleaning.conflicts import find_conflicts, of_the_event, one_row_each


def listing(windows, rows):
    """Rows of an items table: item, hour since which the row holds, brand, size."""
    frame = pl.DataFrame(
        rows, schema={"item_id": pl.String, "hour": pl.Int64, "brand": pl.String, "size": pl.Int64}, orient="row"
    )
    time = pl.lit(windows.train_start) + pl.duration(hours="hour")
    return frame.select("item_id", "brand", "size", since=time.cast(pl.Datetime("us", "UTC")))


def test_by_hand(windows):
    rows = listing(
        windows, [("a", 1, "x", 1), ("a", 5, "y", None), ("a", 3, "x", 2), ("a", 12, "z", 9), ("b", 25, None, 4)]
    )
    assert one_row_each(rows, "item_id", "latest", "since").rows() == [("a", "z", 9), ("b", None, 4)]
    assert one_row_each(rows, "item_id", "as_of", "since", windows).rows() == [("a", "y", 2), ("b", None, 4)]
    assert one_row_each(rows, "item_id", "most_frequent", "since").rows() == [("a", "x", 1), ("b", None, 4)]
    assert one_row_each(rows.drop("since"), "item_id", "latest").rows() == [("a", "z", 9), ("b", None, 4)]


def test_an_attribute_may_be_called_as_the_time_of_events(windows):
    rows = listing(windows, [("a", 1, "x", 1), ("a", 12, "z", 9)]).rename({"brand": "timestamp"})
    assert one_row_each(rows, "item_id", "as_of", "since", windows).rows() == [("a", "x", 1)]


def test_a_row_without_a_time_has_held_for_ever(windows):
    rows = listing(windows, [("a", None, "x", 1), ("a", 5, "y", None), ("b", None, "z", 1), ("b", 25, "w", 1)])
    assert one_row_each(rows, "item_id", "as_of", "since", windows).rows() == [("a", "y", 1), ("b", "z", 1)]


def test_conflicts_are_counted_by_attribute(windows):
    rows = listing(
        windows, [("a", 1, "x", 1), ("a", 1, "y", 2), ("b", 1, "x", 1), ("b", 2, "z", None), ("c", 1, "x", 1)]
    )
    finding = find_conflicts(rows, "item_id", ["brand", "size"], "kept")
    assert (finding.found, finding.details) == (2, ("brand: 2", "size: 1"))
    assert find_conflicts(rows, "item_id", [], "kept").found == 0


ROWS = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.integers(0, 29), st.sampled_from([None, "x", "y"]), st.sampled_from([None, 1, 2])
    ),
    min_size=1,
    max_size=15,
)


@given(ROWS, ROWS, st.sampled_from([10, 20]))
def test_as_of_never_looks_ahead(windows, rows, others, cut):
    past = [row for row in rows if row[1] < cut]
    known = sorted({row[0] for row in past})

    def of_known(rows):
        chosen = one_row_each(listing(windows, rows), "item_id", "as_of", "since", windows)
        return chosen.filter(pl.col("item_id").is_in(known))

    assert_frame_equal(of_known(rows), of_known(past + [row for row in others if row[1] >= cut]))


@given(ROWS, st.sampled_from(["latest", "as_of", "most_frequent"]), st.randoms())
def test_the_order_of_rows_plays_no_part(windows, rows, rule, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert_frame_equal(
        *(one_row_each(listing(windows, r), "item_id", rule, "since", windows) for r in (rows, shuffled))
    )


@given(ROWS)
def test_latest_against_a_loop(windows, rows):
    expected = {}
    for item in sorted({row[0] for row in rows}):
        values = [
            max(((row[1], row[place]) for row in rows if row[0] == item and row[place] is not None), default=(0, None))[
                1
            ]
            for place in (2, 3)
        ]
        expected[item] = tuple(values)
    chosen = one_row_each(listing(windows, rows), "item_id", "latest", "since")
    assert {item: tuple(values) for item, *values in chosen.rows()} == expected


def test_what_differs_within_the_items_is_of_the_event():
    n = 40
    lines = pl.DataFrame(
        {
            "item_id": [i // 4 for i in range(n)],  # ten items of four lines
            "brand": [f"b{i // 4}" if i % 20 else "typo" for i in range(n)],  # two items with a slip
            "device": [("app", "web")[i % 2] for i in range(n)],
            "session_id": range(n),
            "shelf": [i % 3 for i in range(n)],
            "price": [1.5 * i for i in range(n)],
            "half": [f"h{i % 2}" if i < 20 else "h" for i in range(n)],  # five of ten are not more than half
            "once": [f"o{i}" if i % 4 == 0 else None for i in range(n)],  # nothing to differ from
        }
    )
    found = of_the_event(lines, "item_id", lines.columns[1:])
    assert list(found) == ["device", "session_id"]
    assert found["device"].startswith("it differs within 10 of 10 items")
    assert "data.context=[device]" in found["device"]
    assert of_the_event(lines.filter(pl.col("item_id") < 9), "item_id", ["device"]) == {}
    assert of_the_event(lines, "item_id", ["price"]) == {}
