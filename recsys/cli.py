"""The console: ``recsys VERB [overrides and flags]``; each verb is a Hydra application."""

import argparse
import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from recsys.errors import RecsysError, did_you_mean

VERBS = {
    "plan": "what train (or: plan tune) would do and need, and all that would stop it, in seconds",
    "prepare": "tables -> prepared data set (cached by content) and a data report",
    "audit": "what of the data would leak, and what other splits would have claimed",
    "segment": "users in segments (RFM, clusters, intent ...), as parquet and a report",
    "train": "the main job: prepare, fit two-tower model and ranker, bundle, evaluate, register",
    "tune": "trials over a search space, on the validation window; the best as a file for train",
    "sync": "what runs could not send while the tracking server was away goes there now",
    "evaluate": "a bundle beside the baselines on the test window, with intervals",
    "touchpoints": "home, product page, cart ... of a bundle beside baselines, each on events of its kind",
    "promote": "a registered version beside the champion on one window; it serves from now on if it passes",
    "rollback": "the champion before this one serves again",
    "explain": "what moved the score of one item for one user",
    "erase": "people leave prepared data, runs, bundles and registered models; a receipt says what changed",
    "add-items": "new products into a bundle, and a new version of a registered one, without training",
    "recommend": "a bundle -> the k best items for all or given users, as parquet",
    "publish": "a bundle -> the same lists in Redis, all at one moment",
}
HELP = f"""usage: recsys VERB [group=option] [key=value] [flags]

verbs:
{chr(10).join(f"  {verb:<11} {meaning}" for verb, meaning in VERBS.items())}

examples:
  recsys train                                         the embedded year of shopping baskets, on the CPU
  recsys train data=tables data.events=sales.parquet trainer=gpu       your own events, on a GPU
  recsys recommend bundle=models:/recsys-tables/1 k=20 output=recs.parquet

where things are written:
  runs/VERB/TIME/   everything of one run: table, plots, checkpoints, bundle, resolved configuration
  prepared/         prepared data sets, reused while data and settings are the same
  mlflow.db         runs, metrics and registered models, unless tracking.uri names a server

to find your way:
  recsys VERB --help            groups, options, and every key with its value and what it means
  recsys plan data=...          what recsys train would do with the same overrides, and what would stop it
  recsys VERB --cfg job         the configuration as composed, without running
  recsys train -m seed=1,2,3    several runs, one after the other
  recsys train debug=does_it_run   every stage once, on a few batches
"""
NO_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
"""The disk is full, read-only or not ours: for the user to put right, so no traceback."""
SIGNAL_CODES: dict[Any, str] = {130: "interrupted", 143: "terminated"}
"""Exit codes of Ctrl-C and SIGTERM, and what is said about them."""
HELP_FLAGS = ("--help", "-h")
FLAGS_THAT_EXCLUDE = ("Only one of --run, --multirun", "The --resolve flag")
"""How Hydra's plain ValueErrors about flags begin."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code.

    It is 0, 2 for what the user can put right, 3 where ``promote`` refused, 128 + signal when interrupted, 141 when
    the reader of the output, such as ``head``, has gone.

    Args:
        arguments: Verb, overrides and flags; by default those of the command line.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        return _fail(f"unknown verb '{verb}'.{did_you_mean(verb, VERBS)} Legal: {', '.join(VERBS)}.")
    try:
        from recsys.config.overrides import readable

        rest = [readable(argument) for argument in rest]
        if any(flag in rest for flag in HELP_FLAGS):
            _help(verb, rest)
        elif verb == "plan":
            _plan(rest)
        else:
            _hydra_app(verb, rest)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor shall the interpreter's own flush fail
        return 141
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:  # of the job, or of Hydra's own --help
        if stop.code in SIGNAL_CODES:
            print(SIGNAL_CODES[stop.code], file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        return _fail(message)
    return 0


def _help(verb: str, arguments: list[str]) -> None:
    """Print what a verb does and can be told; Hydra's own help takes seconds to find its groups."""
    from recsys.config.compose import untyped
    from recsys.config.help import help_text

    config_dir, others = _own_arguments(arguments)
    overrides = [argument for argument in others if "=" in argument and not argument.startswith("-")]
    composed = module_of(verb)
    if verb == "plan":
        from recsys.entries.plan import PLANNED

        composed = others[0] if others[0] in PLANNED else PLANNED[0]
    print(help_text(f"recsys {verb}", VERBS[verb], untyped(composed, overrides, config_dir), config_dir), end="")


def _plan(arguments: list[str]) -> None:
    """Plan ``recsys train``, or the verb that comes first: the configuration is that of the verb."""
    from recsys.entries.plan import PLANNED
    from recsys.memory import keep_freed_memory

    keep_freed_memory()
    word = arguments[0] if arguments else ""
    is_verb = word != "" and "=" not in word and not word.startswith(("-", "+", "~"))
    if is_verb and word not in PLANNED:
        raise RecsysError(
            f"plan: '{word}' cannot be planned.{did_you_mean(word, PLANNED)} Legal: {', '.join(PLANNED)}."
        )
    verb, rest = (word, arguments[1:]) if is_verb else (PLANNED[0], arguments)
    config_dir, overrides = _own_arguments(rest)
    if any(override.startswith("-") for override in overrides):  # Hydra's flags are for Hydra
        _hydra_app(verb, rest, entry="plan")
        return

    from recsys.config.compose import compose_with_problems
    from recsys.entries.plan import run
    from recsys.errors import ConfigError

    cfg, problems = compose_with_problems(verb, overrides, config_dir)
    if cfg is None:
        raise ConfigError("\n".join(problems))
    run(cfg, problems)


def _hydra_app(verb: str, arguments: list[str], entry: str | None = None) -> None:
    """Hand ``arguments`` to Hydra, which composes the configuration and calls the entry, once or many times."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from recsys.config import conf_dir
    from recsys.config.compose import VERSION_BASE, register_schemas
    from recsys.memory import keep_freed_memory

    keep_freed_memory()
    _check_first(verb, arguments)
    command_line = sys.argv

    def task(cfg: DictConfig) -> None:
        sys.argv = command_line  # Lightning starts its other processes with it
        try:
            _run_entry(entry or verb, cfg)
        except Exception as error:
            message = _message(error)
            if message is None or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # the jobs after this one still run; Hydra reports
            raise SystemExit(_fail(message)) from error

    register_schemas()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach `main` instead of being printed and turned into an exit
    sys.argv = [f"recsys {verb}", *arguments]
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name=module_of(verb))(task)()
    finally:
        sys.argv = command_line


def _check_first(verb: str, arguments: list[str]) -> None:
    """Compose and check a plain run before Hydra makes its folder, so that a typo leaves nothing behind."""
    from recsys.config.compose import compose

    config_dir, overrides = _own_arguments(arguments)
    if not any(override.startswith("-") for override in overrides):
        compose(module_of(verb), overrides, config_dir)


def _own_arguments(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the folder of the user's own configuration, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    known, others = parser.parse_known_args(arguments)
    return known.config_dir, others


def _run_entry(verb: str, cfg: Any) -> None:
    from recsys.config.compose import to_typed
    from recsys.stop import Stop

    typed, stop = to_typed(cfg), Stop()
    with stop.listening(), stop.armed():
        importlib.import_module(f"recsys.entries.{module_of(verb)}").run(typed)


def module_of(verb: str) -> str:
    """Return what the module and the configuration of a verb are called: ``add_items`` of ``add-items``."""
    return verb.replace("-", "_")


def _message(error: Exception) -> str | None:
    """Return what to tell the user, or None where the error is ours and a traceback is due."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from recsys.config.explain import explain

    if isinstance(error, RecsysError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error)
    if isinstance(error, YAMLError):
        return f"a configuration file is not valid YAML: {error}"
    if isinstance(error, ValueError) and str(error).startswith(FLAGS_THAT_EXCLUDE):
        return f"{error}."
    number = _error_number(error)
    if number in NO_WRITE:
        file = getattr(error, "filename", None)
        place = f"'{file}': " if file else ""
        return (
            f"{place}{os.strerror(number)}. Free space or choose other folders: "
            "hydra.run.dir=DIR for the run, data.cache_dir=DIR for prepared data."
        )
    return None


def _error_number(error: Exception) -> int:
    """Return the operating system's number of what went wrong, 0 without one; polars only writes it in its text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else 0


def _fail(message: str) -> int:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    console.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    return 2
