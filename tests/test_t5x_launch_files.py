"""Launch files for T5X, and the pages about it, against the names that its source has.

T5X is in no package index: `t5x_names.json` records what its gin files may set.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

import gin
import pytest
from gin import config_parser

from flan_train import cli, config, mixtures, tasks

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / "t5x_configs"
NAMES = json.loads((REPOSITORY / "tests" / "t5x_names.json").read_text("utf-8"))
LAUNCHES = sorted(path.name for path in (FOLDER / "t5x").glob("flan_t5_*.gin"))
PRETRAINED = 1_100_000
OURS = "flan_train.tasks.register"
PAGES = ("docs/migrating_from_t5x.md", "docs/conversion.md")


class Reference(NamedTuple):
    """`@scope/name()` in a gin file."""

    name: str
    called: bool


class Macro(NamedTuple):
    """`%NAME` in a gin file."""

    name: str


class Names(config_parser.ParserDelegate):
    """Keeps references as names: nothing is imported."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def statements(path: pathlib.Path) -> list[Any]:
    return list(config_parser.ConfigParser(path.read_text("utf-8"), Names()))


class Launch:
    """What a launch file and the files of ours that it includes say, in order."""

    def __init__(self, name: str) -> None:
        self.macros: dict[str, Any] = {}
        self.bound: dict[tuple[str, str, str], Any] = {}
        self.included: list[str] = []
        self.theirs: set[str] = set()
        self.required: set[str] = set()
        self._read(FOLDER / "t5x" / name)

    def _read(self, path: pathlib.Path) -> None:
        imported: dict[str, str] = {}
        for statement in statements(path):
            if isinstance(statement, config_parser.ImportStatement):
                imported[statement.bound_name()] = statement.module
            elif isinstance(statement, config_parser.IncludeStatement):
                self._include(statement.filename)
            elif isinstance(statement, config_parser.BindingStatement):
                self._bind(statement, imported)
            else:
                known_configurable(statement.selector, imported)
        assert imported.pop("dynamic_registration") == "__gin__.dynamic_registration"
        for alias, module in imported.items():
            assert NAMES["modules"].get(alias, OURS) == module

    def _include(self, filename: str) -> None:
        self.included.append(filename)
        if filename.startswith("t5x_configs/"):
            self._read(REPOSITORY / filename)
            return
        about = NAMES["gin_files"][filename]
        for further in about["includes"]:
            self._include(further)
        self.theirs.update(about["macros"])
        self.required.update(about["required"])
        # What a later file of theirs sets again.
        self.required -= set(about["macros"]) - set(about["required"])

    def _bind(self, statement: Any, imported: dict[str, str]) -> None:
        for reference in references(statement.value):
            if isinstance(reference, Reference):
                known_configurable(reference.name.rpartition("/")[2], imported)
            else:
                assert reference.name in self.theirs | set(self.macros), reference
        if not statement.arg_name:
            assert statement.selector in self.theirs, f"T5X reads no {statement.selector}"
            self.macros[statement.selector] = statement.value
            return
        arguments = known_configurable(statement.selector, imported)
        assert statement.arg_name in arguments, f"{statement.selector} has no {statement.arg_name}"
        if statement.scope:
            scopes = [NAMES["gin_files"].get(name, {}).get("scopes", {}) for name in self.included]
            assert any(statement.scope in scope.get(statement.selector, ()) for scope in scopes)
        self.bound[statement.scope, statement.selector, statement.arg_name] = statement.value


def references(value: Any) -> Iterator[Reference | Macro]:
    if isinstance(value, Reference | Macro):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def known_configurable(selector: str, imported: dict[str, str]) -> list[str]:
    """The arguments of something that a gin file names; it must have been imported there."""
    root = selector.partition(".")[0]
    assert root in imported, f"{selector}: {root} is not imported"
    if selector == "register.LazyVocabulary":
        return ["name"]
    return list(NAMES["arguments"][selector])


@pytest.mark.parametrize("name", LAUNCHES)
def test_every_binding_is_one_of_t5x(name: str) -> None:
    launch = Launch(name)
    assert {"t5x_configs/t5x/finetune.gin", "t5x_configs/t5x/eval.gin"} & set(launch.included)
    text = (FOLDER / "t5x" / name).read_text("utf-8")
    given = set(re.findall(r"--gin\.([A-Z_]+)=", text.partition("\nfrom ")[0]))
    # MODEL is T5X's own, from its model file.
    assert launch.required - set(launch.macros) - {"MODEL"} <= given <= launch.theirs
    assert launch.macros["MIXTURE_OR_TASK_MODULE"] == "flan_train.mixtures"
    assert importlib.util.find_spec("flan_train.mixtures")
    assert launch.macros["VOCABULARY"] == Reference("register.LazyVocabulary", True)
    mixture = launch.macros["MIXTURE_OR_TASK_NAME"]
    vocabularies = {tasks.get(task).default_vocabulary for task in mixtures.tasks_of(mixture)}
    assert vocabularies == {launch.bound["", "register.LazyVocabulary", "name"]}
    for named in re.findall(r"t5x_configs/t5x/[\w.]+", text):
        assert (REPOSITORY / named).is_file()


@pytest.mark.parametrize("size", ["base", "xl"])
def test_fine_tuning_follows_the_recipe(size: str) -> None:
    """The same numbers as the recipe for `flan-train`, which holds the paper's."""
    launch = Launch(f"flan_t5_{size}_finetune.gin")
    recipe = config.resolve([f"t5x_configs/recipes/flan_t5_{size}.gin"])
    flat = recipe.flat("flan_train.train.train")
    assert launch.macros["TRAIN_STEPS"] == PRETRAINED + flat["train_steps"]
    assert launch.macros["INITIAL_CHECKPOINT_PATH"].endswith(f"checkpoint_{PRETRAINED}")
    assert launch.macros["BATCH_SIZE"] == flat["batch_size"]
    assert launch.macros["DROPOUT_RATE"] == flat["model.dropout_rate"]
    assert launch.macros["MIXTURE_OR_TASK_NAME"] == flat["data.mixture_or_task_name"]
    assert launch.macros["TASK_FEATURE_LENGTHS"] == recipe.macro("TASK_FEATURE_LENGTHS")
    assert launch.macros["USE_CACHED_TASKS"] is False
    schedule = "utils.create_learning_rate_scheduler"
    assert launch.bound["", schedule, "factors"] == "constant"
    assert launch.bound["", schedule, "base_learning_rate"] == flat["optimizer.learning_rate"]
    assert launch.bound["", "adafactor.Adafactor", "decay_rate"] == flat["optimizer.decay_exponent"]
    assert launch.bound["", "adafactor.Adafactor", "step_offset"] == PRETRAINED
    # A fixed seed; and saves that T5X accepts beside its evaluations, all of them kept.
    assert isinstance(launch.macros["RANDOM_SEED"], int)
    assert launch.bound["train", "utils.DatasetConfig", "seed"] == Macro("RANDOM_SEED")
    assert launch.bound["", "utils.SaveCheckpointConfig", "period"] == Macro("EVAL_PERIOD")
    saves = 2 + flat["train_steps"] // launch.macros["EVAL_PERIOD"]
    assert launch.bound["", "utils.SaveCheckpointConfig", "keep"] >= saves
    held_out = launch.bound["infer_eval", "utils.DatasetConfig", "mixture_or_task_name"]
    suites = flat["evaluation.suites"]
    assert set(mixtures.tasks_of(held_out)) >= {
        task for suite in suites for task in mixtures.tasks_of(suite)
    }


def test_a_name_that_t5x_does_not_have_is_found(tmp_path: pathlib.Path) -> None:
    good = (FOLDER / "t5x" / "flan_t5_base_finetune.gin").read_text("utf-8")
    for line in ("DROPUT_RATE = 0.1", "utils.DatasetConfig.sed = 1", "BATCH_SIZE = %BATCH"):
        path = tmp_path / "launch.gin"
        path.write_text(good.replace("\ninclude", "\nfrom t5x import utils\n\ninclude", 1) + line)
        launch = Launch.__new__(Launch)
        launch.macros, launch.bound, launch.included = {}, {}, []
        launch.theirs, launch.required = set(), set()
        with pytest.raises(AssertionError):
            launch._read(path)


def parsers() -> dict[str, argparse.ArgumentParser]:
    (verbs,) = (
        action
        for action in cli._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(verbs.choices)


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    found = {flag for action in parser._actions for flag in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {flag for sub in action.choices.values() for flag in flags_of(sub)}
    return found


def our_macros() -> set[str]:
    """Every macro that a gin file of ours sets or reads."""
    found = set()
    for path in FOLDER.glob("*/*.gin"):
        if path.parent.name == "t5x":
            continue
        for statement in statements(path):
            if isinstance(statement, config_parser.BindingStatement):
                if not statement.arg_name:
                    found.add(statement.selector)
                found |= {one.name for one in references(statement.value) if isinstance(one, Macro)}
    return found


def is_ours(token: str, macros: set[str]) -> bool:
    """Whether a name of the middle column is a macro, a flag, a verb or a setting here."""
    if re.fullmatch(r"[A-Z][A-Z_]+", token):
        return token in macros
    if token.startswith("--"):
        flags = set().union(*(flags_of(parser) for parser in parsers().values()))
        return token.partition("=")[0] in flags
    if token in parsers():
        return True
    configurable, _, argument = token.rpartition(".")
    known = gin.config._REGISTRY.get_match(configurable) if configurable else None
    if known is None:
        return False
    return argument in inspect.signature(inspect.unwrap(known.wrapped)).parameters


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_name_of_ours_on_the_page_exists() -> None:
    config.resolve(["t5x_configs/recipes/quickstart.gin"])  # registers what gin may set
    macros = our_macros()
    text = (REPOSITORY / PAGES[0]).read_text("utf-8")
    named = 0
    for title in ("Macros", "Bindings", "Flags"):
        for line in section(text, title).splitlines():
            if not line.startswith("| "):
                continue
            here = line.split("|")[2]
            tokens = re.findall(r"`([^`]+)`", here)
            named += len(tokens)
            assert tokens or here.split()[0] in ("none", "here"), line
            for token in tokens:
                assert is_ours(token, macros), f"there is no {token} here: {line}"
    assert named > 80


def names_of_theirs(text: str) -> set[str]:
    """What the first columns name, in full.

    A header's configurable stands before each name of its table, and a row's before `.names`.
    """
    found, table, row = set(), "", ""
    for line in text.splitlines():
        if not line.startswith("| "):
            continue
        tokens = re.findall(r"`([^`]+)`", line.split("|")[1])
        if line.startswith("| T5X"):
            table = tokens[0] if tokens else ""
            continue
        for token in tokens:
            if token.startswith("."):
                token = row + token
            elif table and not any(token.startswith(f"{name}.") for name in NAMES["arguments"]):
                token = f"{table}.{token}"
            row = token.rpartition(".")[0]
            found.add(token)
    return found


def test_every_macro_binding_and_flag_of_t5x_is_on_the_page() -> None:
    text = (REPOSITORY / PAGES[0]).read_text("utf-8")
    found = names_of_theirs(text)
    # The verb that has no counterpart has a paragraph.
    assert "(`INFER_OUTPUT_DIR`, `infer_script.infer`) has no counterpart" in text
    found.add("INFER_OUTPUT_DIR")
    for file, about in NAMES["gin_files"].items():
        missing = set(about["macros"]) - found
        assert not missing, f"{file}: {missing}"
    for configurable, arguments in NAMES["arguments"].items():
        missing = {name for name in arguments if f"{configurable}.{name}" not in found}
        assert not missing or configurable == "infer_script.infer", f"{configurable}: {missing}"
    for file, flags in NAMES["flags"].items():
        missing = {flag for flag in flags if f"--{flag}" not in found}
        assert not missing, f"{file}: {missing}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_the_pages_can_be_typed(page: str) -> None:
    text = (REPOSITORY / page).read_text("utf-8")
    blocks = "\n".join(text.split("```")[1::2]).replace("\\\n", " ")
    lines = [line for line in blocks.splitlines() if line.startswith("flan-train ")]
    assert lines
    for line in lines:
        words, _ = cli._split_gin(shlex.split(line.partition(" #")[0])[1:])
        options = cli._parsed(words)
        for name in getattr(options, "gin_file", ()):
            assert (REPOSITORY / name).is_file(), line
    for line in re.findall(r"t5x_configs/[\w/.]+\.gin", text):
        assert (REPOSITORY / line).is_file()
    for target in re.findall(r"\]\(([\w./]+)(?:#[\w-]+)?\)", text):
        assert (REPOSITORY / "docs" / target).is_file(), target
    for test in re.findall(r"`((?:tests/)?[\w/]*test_\w+\.py)`", text):
        folder = REPOSITORY if test.startswith("tests/") else REPOSITORY / "tests" / "convert"
        assert (folder / test).is_file(), test
