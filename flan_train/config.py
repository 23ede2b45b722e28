"""Gin files and `--gin.NAME=VALUE` settings, resolved strictly: every binding must exist and count.

Gin itself stops at an unknown configurable but takes a misspelt macro (`DROPUT_RATE = 0.1`) for a
new one that nobody reads. Here a setting that nothing reads is an error as well, with the file,
the line and the nearest known name.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gin
from gin import config_parser

from flan_train.errors import UserError

# Everything a gin file may bind lives in these modules, by its module name (never `__main__`).
CONFIGURABLE_MODULES = (
    "flan_train.prepare",
    "flan_train.models.t5",
    "flan_train.sharding",
    "flan_train.losses",
    "flan_train.loss_guard",
    "flan_train.optimizers",
    "flan_train.checkpoints",
    "flan_train.evaluate",
    "flan_train.select",
    "flan_train.train",
    "flan_train.verbs",
    "flan_train.verb_eval",
)
# What a launch starts from; a binding counts when one of these reaches it.
ROOTS = (
    "flan_train.train.train",
    "flan_train.verbs.evaluate_checkpoint",
    "flan_train.verbs.prepare_mixture",
)
_MACRO = "gin.macro"
# What gin raises for a mistake in a configuration; anything else is a fault of the program, and its
# traceback is worth more than a short message.
GIN_ERRORS = (ValueError, TypeError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a binding was written."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.text}" if self.line else self.file


@dataclasses.dataclass(frozen=True)
class ResolvedConfig:
    """A parsed configuration: gin holds the values, `origins` where each was written."""

    origins: Mapping[tuple[str, str, str], Origin]

    def arguments(self, root: str) -> dict[str, Any]:
        """Returns every argument of `root` with references built and defaults filled in.

        Raises:
          UserError: an argument without a default is not bound, or a value is refused.
        """
        function = gin.get_configurable(root)
        try:
            bound = gin.get_bindings(root)
        except UserError as error:
            # Gin adds its call stack to the text of what a configurable raises, not to its parts.
            raise UserError(
                error.what, where=error.where, expected=error.expected, fix=error.fix
            ) from error
        except GIN_ERRORS as error:
            raise _from_gin(error, f"the configuration of {root}") from error
        arguments: dict[str, Any] = {}
        missing = []
        for name, parameter in inspect.signature(inspect.unwrap(function)).parameters.items():
            if name in bound:
                arguments[name] = bound[name]
            elif parameter.default is not inspect.Parameter.empty:
                arguments[name] = parameter.default
            elif parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                missing.append(name)
        if missing:
            raise UserError(
                f"{root} is not told its {', '.join(missing)}",
                where="the gin files of this launch",
                expected="a binding for each",
                fix="include t5x_configs/runs/finetune.gin (eval.gin, prepare.gin), or bind them",
            )
        return arguments

    def macro(self, name: str) -> Any:
        """Returns the value of a setting such as MODULES; None when no file sets it."""
        return gin.config._CONFIG.get((name, _MACRO), {}).get("value")

    def flat(self, root: str) -> dict[str, Any]:
        """Returns the arguments as one level of dotted names; dataclasses are opened up."""
        return dict(_flatten(self.arguments(root), ""))

    def text(self, root: str) -> str:
        """Returns `flat` as sorted `name = value` lines, which tests keep as golden files."""
        return "".join(f"{name} = {value!r}\n" for name, value in sorted(self.flat(root).items()))


def _flatten(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def search_paths(extra: Iterable[str] = ()) -> list[pathlib.Path]:
    """Returns where a gin file's name is looked up: the user's, the current, the package's folder.

    The package's own folder makes `t5x_configs/...` resolve from an installed wheel as well.
    """
    own = pathlib.Path(__file__).resolve().parent
    return [*(pathlib.Path(path) for path in extra), pathlib.Path(), own]


def find_gin_file(name: str, paths: Sequence[pathlib.Path], where: str = "") -> pathlib.Path:
    """Returns the file that `name` means.

    Raises:
      UserError: no such file; lists the folders that were searched and the nearest names.
    """
    candidates = [pathlib.Path(name)] if pathlib.Path(name).is_absolute() else []
    candidates += [path / name for path in paths]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    shipped = [
        str(path.relative_to(paths[-1]))
        for path in sorted((paths[-1] / "t5x_configs").glob("*/*.gin"))
    ]
    near = difflib.get_close_matches(name, shipped, n=3, cutoff=0.4)
    raise UserError(
        f"no gin file '{name}'",
        where=where or "--gin_file",
        expected="a file under one of " + ", ".join(str(path.resolve()) for path in paths),
        fix=f"did you mean {' or '.join(near)}?" if near else "check the path",
    )


def resolve(
    gin_files: Sequence[str],
    bindings: Sequence[str] = (),
    extra_paths: Sequence[str] = (),
) -> ResolvedConfig:
    """Parses gin files in order, then single bindings, and checks that each of them counts.

    Args:
      gin_files: names, looked up by `search_paths`.
      bindings: `NAME = VALUE` lines from the command line; they win over the files.
      extra_paths: folders searched first.

    Raises:
      UserError: a file, configurable, parameter or macro that does not exist; a syntax error; a
        binding that nothing reads; a macro used but never set.
    """
    gin.clear_config()
    _SHADOWED.clear()
    for module in CONFIGURABLE_MODULES:
        importlib.import_module(module)
    paths = search_paths(extra_paths)
    origins: dict[tuple[str, str, str], Origin] = {}
    for name in gin_files:
        _parse_file(find_gin_file(name, paths), paths, origins, [])
    for binding in bindings:
        _parse_statements(binding, "command line --gin." + binding, paths, origins, [])
    _check_required(origins)
    _check_all_used(origins)
    return ResolvedConfig(origins)


def _parse_file(
    path: pathlib.Path,
    paths: Sequence[pathlib.Path],
    origins: dict[tuple[str, str, str], Origin],
    stack: list[pathlib.Path],
) -> None:
    resolved = path.resolve()
    if resolved in stack:
        chain = " -> ".join(str(item) for item in [*stack, resolved])
        raise UserError("gin files include each other in a circle", where=chain)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "the gin file cannot be read", where=str(path), expected=f"UTF-8 text ({error})"
        ) from error
    _parse_statements(text, str(path), paths, origins, [*stack, resolved])


def _parse_statements(
    text: str,
    name: str,
    paths: Sequence[pathlib.Path],
    origins: dict[tuple[str, str, str], Origin],
    stack: list[pathlib.Path],
) -> None:
    lines = text.splitlines()

    def origin(line: int) -> Origin:
        from_file = bool(stack)
        return Origin(name, line if from_file else 0, lines[line - 1].strip() if lines else "")

    try:
        for statement in config_parser.ConfigParser(text, gin.config.ParserDelegate()):
            place = origin(statement.location.line_num)
            if isinstance(statement, config_parser.IncludeStatement):
                _parse_file(
                    find_gin_file(statement.filename, paths, str(place)), paths, origins, stack
                )
            elif isinstance(statement, config_parser.ImportStatement):
                _check_import(statement.module, place)
                importlib.import_module(statement.module)
            elif isinstance(statement, config_parser.BlockDeclaration):
                _known_configurable(statement.selector, place)
            else:
                _bind(statement, place, origins)
    except SyntaxError as error:
        place = origin(min(error.lineno or 1, max(len(lines), 1)))
        raise UserError(
            f"not gin syntax: {error.msg}",
            where=str(place),
            expected="NAME = VALUE, where VALUE is a Python literal, %MACRO or @configurable()",
            fix="text needs quotes, and in a shell both kinds: --gin.NAME=\"'text'\"",
        ) from error
    except (*GIN_ERRORS, ImportError) as error:
        raise _from_gin(error, name) from error


def _check_import(module: str, place: Origin) -> None:
    if module.partition(".")[0] in ("__gin__", "__main__", "t5x"):
        raise UserError(
            "the gin file is one of T5X's",
            where=str(place),
            expected="settings of flan-train, which needs no imports for them",
            fix="docs/migrating_from_t5x.md has what each name is here",
        )


def _from_gin(error: Exception, where: str) -> UserError:
    first, _, rest = str(error).partition("\n")
    return UserError(first or type(error).__name__, where=" ".join(rest.split()) or where)


def _known_configurable(selector: str, place: Origin) -> Any:
    configurable = gin.config._REGISTRY.get_match(selector)
    if configurable is None:
        names = {
            ".".join(name.split(".")[-2:])
            for name, _ in gin.config._REGISTRY.items()
            if name.startswith("flan_train.")
        }
        near = difflib.get_close_matches(selector, sorted(names), n=3, cutoff=0.4)
        raise UserError(
            f"nothing configurable is called '{selector}'",
            where=str(place),
            expected="one of " + ", ".join(sorted(names)),
            fix=f"did you mean {' or '.join(near)}?" if near else "check the name",
        )
    return configurable


def _bind(
    statement: config_parser.BindingStatement,
    place: Origin,
    origins: dict[tuple[str, str, str], Origin],
) -> None:
    if not statement.arg_name:
        scope = f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector
        gin.bind_parameter((scope, _MACRO, "value"), statement.value)
        origins[scope, _MACRO, "value"] = place
        return
    configurable = _known_configurable(statement.selector, place)
    known = list(inspect.signature(configurable.wrapped).parameters)
    if statement.arg_name not in known:
        near = difflib.get_close_matches(statement.arg_name, known, n=3, cutoff=0.4)
        raise UserError(
            f"'{statement.selector}' has no parameter '{statement.arg_name}'",
            where=str(place),
            expected="one of " + ", ".join(known),
            fix=f"did you mean {' or '.join(near)}?" if near else "check the name",
        )
    key = (statement.scope, configurable.selector, statement.arg_name)
    _shadow(key)
    gin.bind_parameter(key, statement.value)
    origins[key] = place


# What overridden bindings referred to. A macro that a file binds to a parameter stays read when the
# parameter is then set by hand: `--gin.train.train.batch_size=8` makes no mistake of BATCH_SIZE.
_SHADOWED: dict[tuple[str, str], list[Any]] = {}


def _shadow(key: tuple[str, str, str]) -> None:
    bound = gin.config._CONFIG.get(key[:2], {})
    if key[2] in bound:
        _SHADOWED.setdefault(key[:2], []).append(bound[key[2]])


def _references(value: Any) -> Iterator[tuple[str, str]]:
    """Yields (scope, selector) of each reference inside a bound value."""
    for reference in gin.config.iterate_references({"value": value}):
        yield (reference.config_key[0], reference.config_key[1])


def _check_required(origins: Mapping[tuple[str, str, str], Origin]) -> None:
    defined = {scope for scope, selector, _ in origins if selector == _MACRO}
    for (scope, selector, argument), place in origins.items():
        value = gin.config._CONFIG[scope, selector][argument]
        for ref_scope, ref_selector in _references(value):
            if ref_selector == _MACRO and ref_scope not in defined:
                near = difflib.get_close_matches(ref_scope, sorted(defined), n=3, cutoff=0.5)
                hint = f" (did you mean %{' or %'.join(near)}?)" if near else ""
                raise UserError(
                    f"{ref_scope} is not set",
                    where=str(place),
                    expected=f"a value for {ref_scope}{hint}",
                    fix=f"give --gin.{ref_scope}=VALUE, or a line '{ref_scope} = VALUE' in a gin "
                    "file (text needs quotes: --gin.NAME=\"'text'\")",
                )


def _check_all_used(origins: Mapping[tuple[str, str, str], Origin]) -> None:
    reached: set[tuple[str, str]] = set()
    pending = [("", root) for root in ROOTS]
    while pending:
        key = pending.pop()
        if key in reached:
            continue
        reached.add(key)
        for bound in (*gin.config._CONFIG.get(key, {}).values(), *_SHADOWED.get(key, ())):
            pending.extend(_references(bound))
        # A scoped reference reads the unscoped bindings of the same configurable as well.
        if key[0] and key[1] != _MACRO:
            pending.append(("", key[1]))
    for (scope, selector, argument), place in origins.items():
        if (scope, selector) in reached:
            continue
        if selector == _MACRO:
            known = sorted(key for key, kind in reached if kind == _MACRO)
            near = difflib.get_close_matches(scope, known, n=3, cutoff=0.5)
            raise UserError(
                f"nothing reads the setting '{scope}'",
                where=str(place),
                expected="one of " + ", ".join(known) if known else "a setting of this launch",
                fix=f"did you mean {' or '.join(near)}?" if near else "remove it",
            )
        raise UserError(
            f"nothing uses the binding of '{selector.removeprefix('flan_train.')}.{argument}'",
            where=str(place),
            expected="a configurable that this launch reaches",
            fix="remove the line, or refer to the configurable with @",
        )
