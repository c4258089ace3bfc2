"""A tiny shop with pseudonyms, from tables to a registered model: nobody is named anywhere, and who leaves is gone."""

import json
import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from recsys.bundle.parts import COPY
from recsys.bundle.reader import Bundle
from recsys.config.privacy import EraseConfig
from recsys.data.prepared import load_prepared
from recsys.entries import erase
from recsys.errors import ConfigError, DataError
from recsys.files import NODE
from recsys.privacy.access_log import verify_log
from recsys.privacy.erased import add_erased
from recsys.privacy.pseudonyms import pseudonym
from recsys.privacy.receipt import verify_receipt
from tests.console import console

KEY = "5up3r-s3cr3t-k3y-0f-the-tiny-shop"
NAME = "customer-7f3a91-"
WITHDREW = (50, 51)
GONE = (17, min(set(range(60)) - set(WITHDREW), key=lambda user: pseudonym(KEY.encode(), f"{NAME}{user}")))
"""One who has an attribute of their own, and the first of the bundle, who is in its golden sample."""


@dataclass(frozen=True)
class Shop:
    """Where the tables lie, where the commands ran, and what they showed."""

    tables: Path
    folder: Path
    shown: str

    def words(self, *more: str) -> tuple[str, ...]:
        """Return the overrides of a training run."""
        data = (f"data.{name}={self.tables}/{name}.parquet" for name in ("events", "items", "users"))
        privacy = ("pseudonym_key=env:SHOP_KEY", "access_log=access.jsonl")
        consent = (f"consent={self.tables}/consent.parquet", "default=allow")
        settings = (f"data.privacy.{word}" for word in (*privacy, *consent))
        return ("data=tables", *data, *settings, "debug=does_it_run", "bundle.forms=torchscript", *more)


def write_tables(folder: Path) -> None:
    chance = random.Random(0)
    names = [f"{NAME}{user}" for user in range(60)]
    events = {
        "user_id": [chance.choice(names) for _ in range(1500)],
        "item_id": [f"i{int(80 * chance.random() ** 2)}" for _ in range(1500)],
        "timestamp": [datetime(2024, 1, 1) + timedelta(minutes=7 * i) for i in range(1500)],
    }
    broken = {"user_id": names[:3], "item_id": [None] * 3, "timestamp": [datetime(2024, 1, 2)] * 3}
    pl.concat([pl.DataFrame(events), pl.DataFrame(broken)], how="vertical_relaxed").write_parquet(
        folder / "events.parquet"
    )
    pl.DataFrame({"item_id": [f"i{i}" for i in range(80)], "kind": [f"c{i % 7}" for i in range(80)]}).write_parquet(
        folder / "items.parquet"
    )
    segments = ["only-seventeen-has-this" if user == 17 else "ab"[user % 2] for user in range(60)]
    pl.DataFrame({"user_id": names, "segment": segments}).write_parquet(folder / "users.parquet")
    consent = {
        "user_id": names[50:52],
        "purpose": "personalization",
        "granted": None,
        "withdrawn": datetime(2024, 1, 3),
    }
    pl.DataFrame(consent, schema_overrides={"granted": pl.Datetime("us")}).write_parquet(folder / "consent.parquet")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The main job on it, run once."""
    tables, folder = tmp_path_factory.mktemp("tables"), tmp_path_factory.mktemp("pseudonymous")
    write_tables(tables)
    shop = Shop(tables, folder, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_KEY", KEY)
        done = console(folder, "train", *shop.words("hydra.run.dir=run"))
    assert done.returncode == 0, done.stdout + done.stderr
    return Shop(tables, folder, done.stdout + done.stderr)


def pseudonym_of(user: int) -> str:
    return pseudonym(KEY.encode(), f"{NAME}{user}")


def found(folder: Path, *needles: str) -> dict[str, list[str]]:
    """Return the files that hold one of the needles in their bytes or, for Parquet, in their values."""
    hits = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".parquet":
                content += pl.read_parquet(path).write_json().encode()
            names = [needle for needle in needles if needle.encode() in content]
            if names:
                hits[path.relative_to(folder).as_posix()] = names
    return hits


def test_no_raw_id_and_no_key_in_any_artifact_log_or_record(shop: Shop) -> None:
    assert found(shop.folder, NAME, KEY) == {}
    assert NAME not in shop.shown
    assert KEY not in shop.shown
    somebody = pseudonym_of(5)
    holders = found(shop.folder, somebody)  # so the search finds what is there
    assert any(name.startswith("prepared/") for name in holders)
    assert {"run/bundle/users.parquet", "run/bundle/user_embeddings.parquet"} <= set(holders)
    assert any(name.startswith("mlruns/") for name in holders)
    assert found(shop.tables, NAME)


def test_who_withdrew_is_counted_and_kept_nowhere(shop: Shop) -> None:
    for user in WITHDREW:
        assert found(shop.folder, pseudonym_of(user)) == {}
    (folder,) = (path for path in (shop.folder / "prepared").iterdir() if path.is_dir())
    report = load_prepared(folder).report
    lost = pl.read_parquet(shop.tables / "events.parquet").drop_nulls().filter(
        pl.col("user_id").is_in([f"{NAME}50", f"{NAME}51"])
    )  # fmt: skip
    assert report["rejects"]["no_consent"] + report["rejects"]["consent_withdrawn"] == len(lost)
    assert sum(report["rejects"].values()) == report["rows"]["rejected"]


@pytest.mark.slow
def test_erasure_end_to_end(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Everything in order, since each step changes the same shop."""
    monkeypatch.setenv("SHOP_KEY", KEY)
    folder, gone = shop.folder, [pseudonym_of(user) for user in GONE]
    pl.DataFrame({"user_id": [f"{NAME}{user}" for user in GONE]}).write_csv(tmp_path / "people.csv")
    words = ("erase", f"users={tmp_path}/people.csv", "pseudonym_key=env:SHOP_KEY", "runs=[run]")
    words += ("models=[debug-tables]", "tracking_experiment=debug", "access_log=access.jsonl")
    before = Bundle.load(folder / "run" / "bundle")
    assert set(gone) <= set(before.user_ids)
    assert len(found(folder, *gone)) > 10

    done = console(folder, *words, "hydra.run.dir=first")
    assert done.returncode == 0, done.stdout + done.stderr
    assert found(folder, *gone, NAME, KEY, "only-seventeen-has-this") == {}
    assert NAME not in done.stdout + done.stderr

    after = Bundle.load(folder / "run" / "bundle")
    rest = [user for user in before.user_ids.to_list() if user not in gone]
    assert after.check_sample() > 0
    assert after.recommend(rest, 5).equals(before.recommend(rest, 5))
    assert not list((folder / "run").rglob("*.ckpt"))

    receipt = json.loads((folder / "first" / "receipt.json").read_text())
    kinds = {change["kind"] for change in receipt["changes"]}
    assert {"list", "prepared", "checkpoints", "bundle", "model"} <= kinds
    assert (receipt["people"], receipt["pending"], receipt["check"]["left"]) == (2, [], [])
    assert receipt["check"]["bundles"] == [str(folder / "run" / "bundle")]
    (bundle,) = (change for change in receipt["changes"] if change["kind"] == "bundle")
    manifest = str(folder / "run" / "bundle" / "manifest.json")
    assert bundle["before"][manifest] != bundle["after"][manifest]
    verify_receipt(folder / "first" / "receipt.json")
    log = verify_log(folder / "access.jsonl")
    assert (log.head, [entry["what"] for entry in log.entries]) == (receipt["access_log_head"], ["train", "erase"])
    done = console(folder, "erase", "verify=first/receipt.json", "access_log=access.jsonl")
    assert "access.jsonl: 2 lines, each follows the one before" in done.stdout

    # again: nothing is left to do
    done = console(folder, *words, "hydra.run.dir=second")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "second" / "receipt.json").read_text())["changes"] == []

    # the registry has a version without them, and the old one is gone
    door = (
        "from recsys.bundle.reader import Bundle; from mlflow import MlflowClient;"
        "print([int(v.version) for v in MlflowClient().search_model_versions(\"name='debug-tables'\")]);"
        "b = Bundle.load('models:/debug-tables/2');"
        "print(b.check_sample() > 0, len(b.user_ids), b.manifest.fingerprint)"
    )
    said = python(folder, "-c", door).stdout.split("\n")
    assert said[:2] == ["[2]", f"True {len(rest)} {after.manifest.fingerprint}"]

    # training goes on, from the purged data
    done = console(folder, "train", *shop.words("ranker=none", "hydra.run.dir=again"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len([path for path in (folder / "prepared").iterdir() if path.is_dir()]) == 1
    assert Bundle.load(folder / "again" / "bundle").user_ids.to_list() == rest
    # and from the source prepared anew
    done = console(folder, "prepare", *shop.words("data.split.val=0.2"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert found(folder, *gone, NAME, KEY, "only-seventeen-has-this") == {}

    # a receipt that no longer says what is there
    (folder / "run" / "bundle" / "model_card.md").write_text("other")
    with pytest.raises(DataError, match=r"model_card\.md' has other bytes"):
        verify_receipt(folder / "first" / "receipt.json")


def test_whom_to_erase(tmp_path: Path) -> None:
    assert erase.named_users("a, b ,,a") == {"a": "a", "b": "b"}
    table, text = tmp_path / "p.parquet", tmp_path / "p.csv"
    for ids in ([7, 12, None], [7.0, 12.0, None], ["7", "12", " "]):  # the second is what pandas makes of the first
        pl.DataFrame({"user_id": ids}).write_parquet(table)
        assert erase.named_users(str(table)) == {"7": "7", "12": "12"}
    for lines, expected in (
        ("007,x", {"007": "007"}),
        ("7.0,x\n,x\n12.0,x", {"7": "7", "12": "12"}),
        ("7.0,x\nacme.0,x", {"7.0": "7.0", "acme.0": "acme.0"}),
        ("alice ,gdpr", {"alice ": "alice", "alice": "alice"}),
    ):
        text.write_text(f"user_id,why\n{lines}\n")
        assert erase.named_users(str(text)) == expected
    text.rename(tmp_path / "P.CSV")
    assert erase.named_users(str(tmp_path / "P.CSV")) == expected
    (tmp_path / "P.CSV").rename(text)
    pl.DataFrame({"user_id": [7.5]}).write_parquet(table)
    for users, expected in (
        (",", "nobody is named"),
        (str(tmp_path / "nowhere.csv"), "no such file"),
        (str(table), "fractions"),
        (str(text.rename(tmp_path / "p.txt")), r"a file of people ends in \.parquet or \.csv"),
    ):
        with pytest.raises(DataError, match=expected):
            erase.named_users(users)


def test_a_checkpoint_stays_only_where_the_nearest_bundles_know_nobody(tmp_path: Path) -> None:
    bundles = {
        "bundle": "other", "old/bundle": "other", "new/bundle": "gone", "both/a": "gone", "both/b": "other",
    }  # fmt: skip
    for name, user in bundles.items():
        (tmp_path / name).mkdir(parents=True)
        pl.DataFrame({"user_id": [user]}).write_parquet(tmp_path / name / "users.parquet")
        (tmp_path / name / "manifest.json").touch()
    for name in ("old", "new", "both", "none"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "last.ckpt").touch()
    paths = [tmp_path / name for name in bundles]
    found = erase.checkpoints_of(tmp_path, paths, {"gone"})
    assert [path.relative_to(tmp_path).parts[0] for path in found] == ["both", "new", "none"]
    assert [path.parent.parent.name for path in erase.checkpoints_of(tmp_path / "none", [], {"gone"})] == ["none"]
    assert erase.checkpoints_of(tmp_path, paths, {"nobody"}) == []


def test_who_is_in_no_folder_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever blanks came with the ids, and under pseudonyms."""
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "people.csv").write_text("user_id,why\nalice ,gdpr\nbob ,gdpr\ncarol,gdpr\nAlice,gdpr\n")
    recs, settings = tmp_path / "run" / "recs.parquet", {"runs": [str(tmp_path / "run")], "run_dir": str(tmp_path)}
    recs.parent.mkdir()
    settings |= {"users": str(tmp_path / "people.csv"), "pseudonym_key": f"file:{tmp_path}/key"}
    carol = pseudonym(KEY.encode(), "carol")
    pl.DataFrame({"user_id": ["alice", "bob ", carol, "bo"]}).write_parquet(recs)
    erase.run(EraseConfig(cache_dirs=[], **settings))
    assert pl.read_parquet(recs)["user_id"].to_list() == ["bo"]
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert (receipt["people"], receipt["check"]["in_no_folder"]) == (4, 1)
    assert "not found   1 of 4 people" in capsys.readouterr().out


def test_folders_that_are_none_are_named(tmp_path: Path) -> None:
    for key in ("cache_dirs", "runs"):
        cfg = EraseConfig(users="somebody", cache_dirs=[], run_dir=str(tmp_path))
        setattr(cfg, key, [str(tmp_path / "nowhere")])
        with pytest.raises(ConfigError, match=f"{key}: .*nowhere' is no folder"):
            erase.run(cfg)


def test_tables_that_cannot_be_read_are_named_after_all_others_are_done(tmp_path: Path) -> None:
    half, whole = tmp_path / "runs" / "a.parquet", tmp_path / "runs" / "b.parquet"
    half.parent.mkdir()
    half.write_bytes(b"PAR1")
    writing = half.with_name(f".c.parquet.{NODE}.{os.getppid()}.0.tmp")
    writing.write_bytes(b"PAR1")
    half.with_name(f".c.parquet.{NODE}.{2**22 + 1}.0.tmp").write_bytes(b"PAR1")  # of a process that is gone
    pl.DataFrame({"user_id": ["customer-17", "customer-1"]}).write_parquet(whole)
    with pytest.raises(DataError, match=r"2 places still name people .* or cannot be read: .*c\.parquet.*a\.parquet"):
        erase.run(
            EraseConfig(users="customer-17", cache_dirs=[], runs=[str(half.parent)], run_dir=str(tmp_path / "out"))
        )
    assert pl.read_parquet(whole)["user_id"].to_list() == ["customer-1"]
    assert sorted(half.parent.iterdir()) == [writing, half, whole]


def test_what_nobody_can_take_out_is_named(tmp_path: Path) -> None:
    """A note of somebody's own stays, is named, and the receipt says so."""
    run_folder = tmp_path / "runs"
    run_folder.mkdir()
    (run_folder / "note.txt").write_text("asked customer-1 and customer-17, not customer-177")
    pl.DataFrame({"user_id": ["customer-17", "customer-1"], "x": [1, 2]}).write_parquet(run_folder / "recs.parquet")
    add_erased(tmp_path / "cache", ["somebody-else"])
    settings = {"cache_dirs": [str(tmp_path / "cache")], "runs": [str(run_folder)], "run_dir": str(tmp_path / "out")}
    with pytest.raises(DataError, match=r"1 places still name people.*note\.txt"):
        erase.run(EraseConfig(users="customer-17", **settings))
    receipt = json.loads((tmp_path / "out" / "receipt.json").read_text())
    assert receipt["check"]["left"] == [str(run_folder / "note.txt")]
    assert [change["kind"] for change in receipt["changes"]] == ["list", "table"]
    assert all(place in receipt["not_covered"] for place in ("Redis", f"{COPY}*", "mlflow models serve"))
    assert pl.read_parquet(run_folder / "recs.parquet")["user_id"].to_list() == ["customer-1"]
    (run_folder / "note.txt").write_text("asked customer-1 and not customer-177")
    erase.run(EraseConfig(users="customer-17", **settings))
    erase.run(EraseConfig(verify=str(tmp_path / "out" / "receipt.json")))
