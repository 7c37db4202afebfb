"""Where the configuration comes from: flags before the environment before a TOML file before the defaults.

A key has one name in three spellings: `max_running` in the file's table `[execution]`, the variable
`SPEAR_WASM_EXECUTION_MAX_RUNNING` and the flag `--execution-max-running`. All of them are made from the fields of
`spear_wasm.config.Config`; a field that is added there has its variable and its flag at once. Sizes and durations
are written as people write them (`"64MiB"`, `"1h30m"`); see `spear_wasm.units`.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeAlias, get_args, get_origin

import msgspec

from spear_wasm.config import Config, Seconds, Section, Size
from spear_wasm.errors import ConfigurationError
from spear_wasm.units import format_size, parse_duration, parse_size

VARIABLE_PREFIX = "SPEAR_WASM_"
DEFAULT = "default"
"""The source of what nobody has set."""
UNIT_MEANS: dict[type, tuple[Callable[[str], float], float]] = {
    Size: (parse_size, float(1 << 50)),
    Seconds: (parse_duration, 366 * 86400.0),
}
"""How each kind is read, and the most that it may be: what is above can only be a mistake."""

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))

Value: TypeAlias = Any  # whatever the field of a section is


@dataclass(frozen=True, slots=True)
class Key:
    """One thing that an operator may set."""

    path: tuple[str, ...]
    kind: Any
    """The type of its field."""
    default: Value

    @property
    def name(self) -> str:
        """As errors and the file name it: `execution.max_running`."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return VARIABLE_PREFIX + "_".join(self.path).upper()

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + "-".join(self.path).replace("_", "-")

    @property
    def takes(self) -> str:
        """What kind of value it takes, in a word."""
        kind = get_args(self.kind)[0] if get_origin(self.kind) is Annotated else self.kind
        if get_origin(kind) is Literal:
            return "|".join(map(str, get_args(kind)))
        if _is_sequence(kind):
            return "A,B,…"
        words = {Size: "SIZE", Seconds: "DURATION", int: "N", float: "NUMBER", bool: "true|false"}
        return words.get(kind, "VALUE")


@dataclass(frozen=True, slots=True)
class EffectiveConfig:
    """A configuration, and where each of its values that is no default was set, by the names of their keys."""

    config: Config
    sources: Mapping[str, str]

    def source(self, key: Key) -> str:
        """Where a key's value comes from."""
        return self.sources.get(key.name, DEFAULT)

    def value(self, key: Key) -> Value:
        """What is in force."""
        return functools.reduce(getattr, key.path, self.config)


def effective_config(
    file: Path | None, environment: Mapping[str, str], flags: Mapping[str, str]
) -> EffectiveConfig:
    """The configuration of a process; `flags` are texts by the names of their keys.

    Variables that begin as ours do but are no key's are not looked at: see `refuse_unknown_variables`.

    Raises:
        ConfigurationError: a file that cannot be read, an unknown key, a bad value; it says which and where.
    """
    values: dict[Key, Value] = {}
    sources: dict[str, str] = {}
    for key, value, source in (
        *(_of_file(file) if file is not None else ()),
        *_of_environment(environment),
        *_of_flags(flags),
    ):
        values[key] = value
        sources[key.name] = source
    return EffectiveConfig(_built(values, sources), sources)


def parse_config(document: Mapping[str, Value]) -> Config:
    """The configuration in a parsed TOML document.

    Raises:
        ConfigurationError: an unknown key or a bad value.
    """
    return _built({key: value for key, value, _ in _of_document(document, "")}, {})


@functools.cache
def keys() -> Mapping[str, Key]:
    """All that can be set, by name, in the order of the tables."""
    return {key.name: key for key in _keys_of(Config(), ())}


def refuse_unknown_variables(environment: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigurationError for a variable that looks like one of ours and is none; `known` are some more."""
    ours = {key.variable for key in keys().values()} | set(known)
    for variable in environment:
        if variable.startswith(VARIABLE_PREFIX) and variable not in ours:
            raise ConfigurationError(
                f"there is no variable {variable}{_nearest(variable, ours)}", variable=variable
            )


def written(value: Value) -> str:
    """A value as a person would write it; where that would not be exact, as a number."""
    match value:
        case Size():
            text = format_size(value).replace(" ", "")
            return text if parse_size(text) == value else str(int(value))
        case Seconds() if 0 < value < 1:
            return f"{value * 1000:g}ms"
        case Seconds():
            return next(
                (f"{value / unit:.0f}{name}" for name, unit in _UNITS if value and value % unit == 0),
                f"{value:g}s",
            )
        case bool():
            return str(value).lower()
        case tuple() | list():
            return ",".join(map(written, value))
        case _:
            return str(value)


def _keys_of(section: Section, path: tuple[str, ...]) -> Iterator[Key]:
    for field in msgspec.structs.fields(section):
        default, place = getattr(section, field.name), (*path, field.name)
        if isinstance(default, Section):
            yield from _keys_of(default, place)
        else:
            yield Key(place, field.type, default)


# --- one source after the other ---------------------------------------------------------------------------

Setting: TypeAlias = tuple[Key, Value, str]
"""A key, its value, and where it was set."""


def _of_file(path: Path) -> Iterator[Setting]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    return _of_document(document, str(path))


def _of_document(document: Mapping[str, Value], source: str) -> Iterator[Setting]:
    for name, value in _flat(document, (), source):
        key = keys().get(name)
        if key is None:
            _refuse_key(name, source)
        yield key, _converted(key, value, source, strict=True), source


def _flat(document: Mapping[str, Value], path: tuple[str, ...], source: str) -> Iterator[tuple[str, Value]]:
    """The keys of nested tables by their names."""
    for name, value in document.items():
        place = (*path, name)
        dotted = ".".join(place)
        is_table = any(key.startswith(f"{dotted}.") for key in keys())
        if is_table and isinstance(value, Mapping):
            yield from _flat(value, place, source)
        elif is_table:
            raise _error(source, f"{dotted} is a table, not a value", dotted)
        elif isinstance(value, Mapping) and dotted not in keys():
            _refuse_table(dotted, source)
        else:
            yield dotted, value


def _of_environment(environment: Mapping[str, str]) -> Iterator[Setting]:
    for key in keys().values():
        if key.variable in environment:
            value = _converted(key, _parts(key, environment[key.variable]), key.variable, strict=False)
            yield key, value, key.variable


def _of_flags(flags: Mapping[str, str]) -> Iterator[Setting]:
    for name, text in flags.items():
        key = keys()[name]
        yield key, _converted(key, _parts(key, text), key.flag, strict=False), key.flag


def _parts(key: Key, text: str) -> str | list[str]:
    """A text as the value that it stands for; several of them are separated by commas."""
    if not _is_sequence(key.kind):
        return text
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _is_sequence(kind: object) -> bool:
    return get_origin(kind) in {tuple, list}


def _converted(key: Key, value: Value, source: str, *, strict: bool) -> Value:
    """A value as its field has it. Not `strict`: it is a text, whatever it stands for."""
    try:
        return msgspec.convert(value, key.kind, strict=strict, dec_hook=_decode_unit)
    except msgspec.ValidationError as error:
        raise _error(source, f"{key.name}: {error}", key.name) from error


def _decode_unit(kind: type, value: object) -> Value:
    if kind not in UNIT_MEANS:
        raise NotImplementedError(f"configuration type {kind.__name__}")
    parse, most = UNIT_MEANS[kind]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected a number or a text with a unit, got {value!r}")  # noqa: TRY004  msgspec turns ValueError into its own
    number = parse(value) if isinstance(value, str) else value
    if not 0 <= number <= most:  # nor is it when it is not a number
        raise ValueError(f"{value!r} is not between 0 and {most:.0f}")
    return kind(number)


# --- all of them together ---------------------------------------------------------------------------------


def _built(values: Mapping[Key, Value], sources: Mapping[str, str]) -> Config:
    by_path = {key.path: value for key, value in values.items()}
    try:
        config: Config = _section(Config(), (), by_path)
    except ConfigurationError as error:
        metadata: dict[str, Any] = dict(error.metadata)
        raise ConfigurationError(f"{error.message}{_blamed(error, sources)}", **metadata) from error
    return config


def _section(defaults: Any, path: tuple[str, ...], values: Mapping[tuple[str, ...], Value]) -> Any:  # noqa: ANN401  whichever section it is given
    """A section of the same type, with these values in place of its own."""
    fields = {}
    for field in msgspec.structs.fields(defaults):
        default, place = getattr(defaults, field.name), (*path, field.name)
        if isinstance(default, Section):
            fields[field.name] = _section(default, place, values)
        else:
            fields[field.name] = values.get(place, default)
    return type(defaults)(**fields)


def _blamed(error: ConfigurationError, sources: Mapping[str, str]) -> str:
    """Where the values were set that do not go together."""
    said = [name for name in error.metadata.get("keys", "").split(", ") if name in sources]
    return f" ({', '.join(f'{name} is set by {sources[name]}' for name in said)})" if said else ""


def _refuse_key(name: str, source: str) -> NoReturn:
    raise _error(source, f"there is no key {name}{_nearest(name, keys())}", name)


def _refuse_table(name: str, source: str) -> NoReturn:
    tables = {key.rpartition(".")[0] for key in keys()}
    raise _error(source, f"there is no table [{name}]{_nearest(name, tables)}", name)


def _error(source: str, message: str, key: str) -> ConfigurationError:
    return ConfigurationError(f"{source}: {message}" if source else message, key=key)


def _nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
