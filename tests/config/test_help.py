"""What ``recsys VERB --help`` shows."""

from pathlib import Path

import pytest

from recsys.config.compose import untyped
from recsys.config.help import help_text
from recsys.errors import ConfigError


def shown(verb: str, *overrides: str, config_dir: str | None = None) -> list[str]:
    return help_text(f"recsys {verb}", "what it does", untyped(verb, overrides, config_dir), config_dir).splitlines()


def words(lines: list[str], start: str) -> list[str]:
    (line,) = [line for line in lines if line.strip().startswith(start)]
    return line.split()


def test_groups_show_what_is_chosen() -> None:
    lines = shown("train", "model=id_only", "debug=does_it_run")
    assert lines[:2] == ["recsys train [group=option] [key=value] [flags]", "what it does"]
    assert "  model: content_only, [id_only], two_tower" in lines
    assert "  debug: can_it_learn, [does_it_run]" in lines
    assert "  experiment: variants" in lines
    assert not [line for line in lines if "schema" in line or line.strip().startswith("hydra")]


def test_keys_have_values_and_meanings() -> None:
    lines = shown("train", "model.width=32", "data.columns.user_id=customer", "data.relevant=[buy,sell]")
    assert words(lines, "width: 32")[2:5] == ["#", "D,", "of"]
    assert words(lines, "user_id:") == ["user_id:", "customer"]  # a key of the user's own has no meaning of ours
    assert words(lines, "relevant:")[:4] == ["relevant:", "[buy,", "sell]", "#"]
    assert words(lines, "val:")[1:4] == ["0.15", "#", "share"]
    assert words(lines, "split:")[1:4] == ["#", "Three", "half-open"]


def test_every_key_of_ours_has_a_meaning() -> None:
    """Those of schemas that others extend, too, and the groups; what is the user's own or Lightning's has none."""
    for verb in ("train", "tune", "evaluate", "promote", "erase", "publish", "add_items"):
        lines = shown(verb, "touchpoints=none", "trainer=cpu") if "train" in verb else shown(verb)
        start = lines.index("Keys with the values they have now; a dot goes deeper, as in data.name=shop:") + 1
        keys = [line for line in lines[start : lines.index("Flags:") - 1] if not line.startswith("      ")]
        parents, bare = [""], []
        for line in keys:
            name, depth = line.strip().partition(":")[0], (len(line) - len(line.lstrip())) // 2 - 1
            parents[depth:] = [name]
            if "  # " not in line and parents[0] not in ("trainer", "callbacks", "search"):
                bare.append(".".join(parents))
        assert not bare, verb


def test_a_verb_without_groups_has_none() -> None:
    lines = shown("recommend", "k=7")
    assert lines[0] == "recsys recommend [key=value] [flags]"
    assert not [line for line in lines if line.startswith("Groups")]
    assert words(lines, "bundle:")[1] == "???"
    assert words(lines, "k:")[1] == "7"


def test_options_of_the_own_folder_are_listed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "myshop.yaml").write_text("defaults: [tables]\nname: myshop\n")
    lines = shown("train", "data=myshop", config_dir=str(tmp_path))
    assert "  data: completejourney, ml_100k, [myshop], rees46_jewelry, tables" in lines
    with pytest.raises(ConfigError, match="does not exist"):
        shown("train", config_dir=str(tmp_path / "nowhere"))
