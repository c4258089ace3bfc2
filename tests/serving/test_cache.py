"""Publishing into a real Redis: one generation at a time, whole or not at all."""

import json
import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from recsys.bundle.reader import Bundle
from recsys.config.compose import compose
from recsys.entries import publish
from recsys.errors import ConfigError, DataError
from recsys.serving.cache import new_generation, publication, without_password


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    """A client of an empty server."""
    import redis as package

    client = package.Redis.from_url(redis_url, decode_responses=True)
    client.flushall()
    yield client
    client.close()


def publish_all(trained: Any, redis_url: str, *overrides: str) -> Any:
    return publish.run(compose("publish", [f"bundle={trained.bundle}", f"to={redis_url}", "k=5", *overrides]))


def look_up(client: Any, *ends: str) -> dict[str, Any]:
    """Read as the README tells readers to."""
    while True:
        generation = client.get("recsys:current")
        for end in ends:
            if found := client.get(f"recsys:{generation}:{end}"):
                return dict(json.loads(found))
        if client.get("recsys:current") == generation:
            raise KeyError(ends)


def test_lists_are_those_of_the_bundle(trained: Any, redis: Any, redis_url: str) -> None:
    written = publish_all(trained, redis_url, "segment=segment", "days=2")
    bundle = Bundle.load(trained.bundle)
    expected = bundle.recommend(None, 5)
    for user in bundle.user_ids:
        own = expected.filter(expected["user_id"] == user)
        found = look_up(redis, f"user:{user}")
        assert found["items"] == own["item_id"].to_list()
        assert found["scores"] == pytest.approx(own["score"].to_list(), abs=1e-6)
        assert found["generation"] == written.generation
    assert written.lists == len(bundle.user_ids) + 1 + 2
    stranger = bundle.recommend([None], 5)["item_id"].to_list()
    assert look_up(redis, "user:nobody", "stranger")["items"] == stranger
    about = json.loads(redis.get(f"recsys:{written.generation}:about"))
    assert about["bundle"] == bundle.manifest.fingerprint
    assert datetime.fromisoformat(about["made"]).tzinfo == UTC
    lives = [redis.ttl(key) for key in redis.keys("recsys:*")]
    assert all(2 * 86400 - 60 <= seconds <= 2 * 86400 for seconds in lives)


def test_a_segment_gets_what_its_users_get(trained: Any, redis: Any, redis_url: str) -> None:
    publish_all(trained, redis_url, "segment=segment")
    bundle = Bundle.load(trained.bundle)
    found = bundle.recommend(None, 5)
    for value in ("a", "b"):
        votes: dict[str, float] = {}
        for user, item, rank in found.select("user_id", "item_id", "rank").iter_rows():
            if bundle.users.filter(bundle.users["user_id"] == user)["segment"][0] == value:
                votes[item] = votes.get(item, 0.0) + 1 / math.log2(rank + 1)
        best = sorted(votes, key=lambda item: (-round(votes[item], 9), item))[:5]
        assert look_up(redis, f"segment:{value}")["items"] == best
        assert look_up(redis, f"segment:{value}")["scores"][0] == 1.0


def test_no_reader_sees_a_mixture_or_nothing(trained: Any, redis: Any, redis_url: str) -> None:
    generations = [publish_all(trained, redis_url).generation]
    users = Bundle.load(trained.bundle).user_ids.to_list()
    stop, faults, seen = threading.Event(), [], []

    def read() -> None:
        import redis as package

        client = package.Redis.from_url(redis_url, decode_responses=True)
        while not stop.is_set():
            before = client.get("recsys:current")
            for user in users[:10]:
                try:
                    found = look_up(client, f"user:{user}")
                except KeyError:
                    faults.append(f"nothing for {user}")
                    continue
                seen.append(found["generation"])
                if len(found["items"]) != 5:
                    faults.append(f"{found}")
                if found["generation"] < before:
                    faults.append("back in time")
        client.close()

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    generations += [publish_all(trained, redis_url).generation for _ in range(4)]
    stop.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert set(seen) <= set(generations)
    assert len(set(seen)) > 2
    assert len(seen) > 100


def test_the_generation_before_goes_soon_and_older_ones_at_once(trained: Any, redis: Any, redis_url: str) -> None:
    first, second, third = (publish_all(trained, redis_url, "keep_seconds=30").generation for _ in range(3))
    assert redis.keys(f"recsys:{first}:*") == []
    assert all(0 < redis.ttl(key) <= 30 for key in redis.keys(f"recsys:{second}:*"))
    assert len(redis.keys(f"recsys:{second}:*")) == len(redis.keys(f"recsys:{third}:*")) > 0
    assert redis.get("recsys:publishing") is None


def test_a_failure_leaves_the_generation_before(trained: Any, redis: Any, redis_url: str) -> None:
    good = publish_all(trained, redis_url).generation
    later, lost, killed = (new_generation(letter * 8) for letter in "abc")

    def interrupted() -> None:
        with publication(redis_url, "recsys", later, 100, 10) as opened:
            opened.write({"user:1": {"items": [1]}})
            raise RuntimeError("disk")

    def evicted() -> None:
        with publication(redis_url, "recsys", lost, 100, 10) as opened:
            opened.write({"user:1": {"items": [1]}, "user:2": {"items": [2]}})
            redis.delete(f"recsys:{lost}:user:2")
            opened.switch({})

    with pytest.raises(RuntimeError, match="disk"):
        interrupted()
    assert redis.get("recsys:current") == good
    assert redis.keys(f"recsys:{later}:*") == []
    with pytest.raises(DataError, match="evicts or loses"):
        evicted()
    assert redis.get("recsys:current") == good
    redis.set(f"recsys:{killed}:user:1", "left by a publisher that was killed")
    redis.set("recsys2:other:user:1", "another name")
    publish_all(trained, redis_url)
    assert redis.keys(f"recsys:{killed}:*") == []
    assert redis.exists("recsys2:other:user:1")


def test_a_name_that_begins_like_another_keeps_its_keys(trained: Any, redis: Any, redis_url: str) -> None:
    with publication(redis_url, "recsys:email", new_generation("0" * 8), 100, 10) as opened:
        opened.write({"user:1": {"items": [1]}})
        opened.switch({})
        keys = sorted(redis.keys("recsys:email:*"))
        assert len(keys) == 4  # list, about, current and lock
        publish_all(trained, redis_url)
        assert sorted(redis.keys("recsys:email:*")) == keys


def test_one_publisher_at_a_time(trained: Any, redis: Any, redis_url: str) -> None:
    with publication(redis_url, "recsys", "first", 100, 10) as opened:
        with pytest.raises(DataError, match=r"another publisher \(first\) is at work"):
            publish_all(trained, redis_url)
        redis.set("recsys:publishing", "thief")
        with pytest.raises(DataError, match=r"another publisher \(thief\) has taken over"):
            opened.write({"user:1": {"items": [1]}})
    assert redis.get("recsys:publishing") == "thief"


def test_what_cannot_be_published(trained: Any, redis_url: str) -> None:
    with pytest.raises(ConfigError, match="legal: segment"):
        publish_all(trained, redis_url, "segment=segmnt")
    with pytest.raises(DataError, match=r"to=redis://127\.0\.0\.1:1/0: .*Readers stay"):
        publish_all(trained, "redis://me:secret@127.0.0.1:1/0")
    with pytest.raises(ConfigError, match=r"to=http://127\.0\.0\.1"):
        publish_all(trained, "http://127.0.0.1")
    assert without_password("redis://me:se@cret@host:6379/0") == "redis://host:6379/0"
