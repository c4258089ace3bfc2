"""``recsys VERB --help``: its groups, and every key with the value it has now and what it means."""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf

from recsys.config import conf_dir

_COMMENT = re.compile(r"^    (\w+): .*?  # (.+)$", re.MULTILINE)
_COLUMN = 44
"""Where what keys mean begins."""
FLAGS = """\
--config-dir DIR    also look for options in DIR/GROUP/*.yaml
--cfg job           show the configuration as composed; nothing runs
-m, --multirun      one run for each value of key=1,2,3
--info defaults     which files the configuration comes from
--hydra-help        all flags of Hydra
"""


def help_text(command: str, meaning: str, cfg: DictConfig, config_dir: str | None = None) -> str:
    """Return the help of a verb.

    Args:
        command: Such as ``recsys train``.
        meaning: What the verb does, in one line.
        cfg: As composed, with Hydra's own part.
        config_dir: Folder of the user's own options.
    """
    choices = {group: option for group, option in cfg.hydra.runtime.choices.items() if group.split("/")[0] != "hydra"}
    groups = [f"  {line}" for group in sorted(choices) if (line := _options(group, choices[group], config_dir))]
    values: Any = OmegaConf.to_container(cfg, resolve=False)
    values.pop("hydra")
    keys = list(_keys(values, OmegaConf.get_type(cfg), "  "))
    sections = [f"{command} {'[group=option] ' if groups else ''}[key=value] [flags]\n{meaning}\n"]
    if groups:
        sections += ["Groups, the chosen option in brackets:", *groups, ""]
    sections += ["Keys with the values they have now; a dot goes deeper, as in data.name=shop:", *keys, ""]
    return "\n".join([*sections, "Flags:", *(f"  {flag}" for flag in FLAGS.splitlines())]) + "\n"


def _options(group: str, chosen: str | None, config_dir: str | None) -> str:
    """Return a group with its options, the empty string where there is nothing to choose."""
    folders = [Path(folder) / group for folder in (conf_dir(), config_dir) if folder is not None]
    names = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    return f"{group}: {', '.join(f'[{n}]' if n == chosen else n for n in names)}" if names else ""


def _keys(values: Mapping[str, Any], schema: Any, indent: str) -> Iterator[str]:
    """Yield a line for each key, those of a group below its name."""
    types = get_type_hints(schema) if is_dataclass(schema) else {}
    meanings = _meanings(schema, types) if types else {}
    for key, value in values.items():
        inner = isinstance(value, dict) and value
        line = f"{indent}{key}:" if inner else f"{indent}{key}: {_written(value)}"
        yield f"{line:<{_COLUMN}}  # {meanings[key]}" if key in meanings else line
        if inner:
            yield from _keys(value, types.get(key), f"{indent}  ")


def _meanings(schema: Any, types: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands beside the keys of a schema, or, for groups and lists of them, above their own."""
    found: dict[str, str] = {}
    for key, hint in types.items():
        own = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
        found |= {key: str(own.__doc__).splitlines()[0].rstrip(".").replace("``", "")} if own else {}
    owners: list[Any] = [one for one in reversed(schema.__mro__) if is_dataclass(one)]
    for owner in owners:
        found |= dict(_COMMENT.findall(inspect.getsource(owner)))
    return found


def _written(value: Any) -> str:
    """Return a value in one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.splitlines()[0]
