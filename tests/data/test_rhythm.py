"""Numbers by key, and what users come back to; the numbers themselves are held to by test_pair_features.py."""

import numpy as np

from recsys.data.rhythm import Keyed, Things

NONE = -1


def test_numbers_are_found_by_their_key_and_others_are_nothing():
    table = Keyed.of(np.array([3, 7, 20]), [np.array([1.0, 2, 3]), np.array([4, 5, 6])])
    found = table.at(np.array([20, 3, 4, NONE, 99, 3]))
    np.testing.assert_array_equal(found[[0, 1, 5]], [[3, 6], [1, 4], [1, 4]])
    assert np.isnan(found[2:5]).all()
    assert Keyed.of(np.empty(0, np.int64), [np.empty(0)]).at(np.array([0, NONE])).shape == (2, 1)


def test_no_two_things_share_a_key():
    # Three items of two brands, one of them in no category, and an item that nobody knows.
    things = Things(np.array([[0, 1, 2, NONE], [0, 0, 1, NONE], [NONE, 0, 0, NONE]]))
    users, items = np.repeat(np.arange(3), 3), np.tile(np.arange(3), 3)
    keys = np.concatenate([things.keys(kind, users, items) for kind in range(3)])
    asked = {
        (user, kind, code) for kind, codes in enumerate(things.codes[:, :3]) for user in range(3) for code in codes
    }
    assert len(set(keys.tolist()) - {NONE}) == len({key for key in asked if key[2] != NONE})
    assert things.keys(2, np.array([0, 1, NONE]), np.array([0, 3, 1])).tolist() == [NONE] * 3
