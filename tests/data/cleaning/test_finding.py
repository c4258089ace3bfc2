from recsys.data.cleaning.finding import Finding, together


def test_parts_of_the_events_add_up():
    a = Finding("junk", 3, "events", "dropped", (("x", 2), ("y", 1)))
    b = Finding("accounts", 1, "accounts", "kept", (("u", 1200),))
    c = Finding("junk", 2, "events", "dropped", (("z", 1), ("x", 1)))
    total = together([a, b, c])
    assert total == (Finding("junk", 5, "events", "dropped", (("x", 3), ("y", 1), ("z", 1))), b)
    assert total[1].details == ("u: 1,200",)
    assert together([]) == ()
