"""Runtimes are found beside the package, in the operator's directories and through entry points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtimes.core.host import RUNTIME, CoreRuntime
from spear_wasm.config import RuntimeConfig
from spear_wasm.errors import ConfigurationError, UnknownRuntime, UnlinkableArtifact
from spear_wasm.model import ComponentInfo, ExternKind, FunctionType, Import, ModuleInfo
from spear_wasm.runtime import Runtime
from spear_wasm.runtime_manager import RuntimeManager
from tests.workshop import Workshop

PLAIN_MODULE = ModuleInfo()
FOREIGN_MODULE = ModuleInfo(
    imports=(Import("env", "mystery", ExternKind.FUNCTION, "() -> ()", FunctionType()),)
)
OWN = {path.parent.name for path in (Path(__file__).parents[2] / "runtimes").glob("*/runtime.toml")}
THIRD_PARTY = """
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    name: str

    def recognises(self, module):
        return any(each.module == "env" for each in module.imports)

    def host_functions(self, module):
        return {}

    def signatures(self, module):
        return []

    def settings(self, module, environment, wishes, allowed):
        return None

    def bind(self, module, function, settings):
        return None

    def preparation(self, module, settings):
        raise NotImplementedError


RUNTIME = Runtime("NAME")
"""


def add_runtime(directory: Path, folder: str, *, name: str, host: str = THIRD_PARTY) -> None:
    home = directory / folder
    home.mkdir(parents=True)
    (home / "runtime.toml").write_text(f'name = "{name}"\nhost = "host.py"\n', encoding="utf-8")
    (home / "host.py").write_text(host.replace("NAME", name), encoding="utf-8")


def manager(*directories: Path) -> RuntimeManager:
    return RuntimeManager(RuntimeConfig(directories=tuple(map(str, directories))))


def fault(*directories: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        manager(*directories)
    return caught.value.message


# --- finding ----------------------------------------------------------------------------------------------


def test_our_own_runtimes_are_always_there() -> None:
    assert set(manager().names) == OWN


@pytest.mark.parametrize("artifact_type", ["", "wasm", "core"])
def test_a_plain_module_finds_the_core_runtime(artifact_type: str) -> None:
    found = manager().find(artifact_type, PLAIN_MODULE)
    assert (found.name, type(found).__name__) == ("core", type(RUNTIME).__name__)
    assert isinstance(found, Runtime)


def test_a_runtime_that_is_not_there_is_refused_by_name_and_the_others_are_named(tmp_path: Path) -> None:
    add_runtime(tmp_path, "lua", name="lua")
    with pytest.raises(UnknownRuntime) as caught:
        manager(tmp_path).find("python\n", PLAIN_MODULE)
    here = ", ".join(sorted(OWN | {"lua"}))
    assert caught.value.message == rf"there is no runtime 'python\n'; this server has: {here}"


@pytest.mark.parametrize("artifact_type", ["", "wasm"])
def test_a_module_that_no_runtime_recognises_is_refused(artifact_type: str) -> None:
    with pytest.raises(UnlinkableArtifact, match="does not provide"):
        manager().find(artifact_type, FOREIGN_MODULE)


def test_a_runtime_that_is_named_is_not_asked_whether_it_recognises_the_module() -> None:
    assert manager().find("core", FOREIGN_MODULE).name == "core"


COMPONENT = ModuleInfo(component=ComponentInfo())


def test_a_component_finds_the_runtime_for_components_and_no_other(tmp_path: Path) -> None:
    greedy = THIRD_PARTY.replace('return any(each.module == "env" for each in module.imports)', "return True")
    add_runtime(tmp_path, "all", name="all", host=greedy)
    runtimes = manager(tmp_path)
    assert runtimes.find("wasm", PLAIN_MODULE).name == "all"
    assert runtimes.find("wasm", COMPONENT).name == "component"
    for name in (OWN | {"all"}) - {"component"}:
        with pytest.raises(UnlinkableArtifact, match="does not run components"):
            runtimes.find(name, COMPONENT)


def test_a_runtime_for_components_does_not_run_modules() -> None:
    with pytest.raises(UnlinkableArtifact, match="the component runtime does not run core modules"):
        manager().find("component", PLAIN_MODULE)


# --- other runtimes ---------------------------------------------------------------------------------------


def test_a_folder_of_a_third_party_is_loaded_and_found_by_name_and_by_module(tmp_path: Path) -> None:
    add_runtime(tmp_path, "any-folder", name="lua")
    runtimes = manager(tmp_path)
    assert set(runtimes.names) == OWN | {"lua"}
    assert runtimes.find("lua", PLAIN_MODULE).name == "lua"
    assert runtimes.find("wasm", FOREIGN_MODULE).name == "lua"
    assert runtimes.find("wasm", PLAIN_MODULE).name == "core"


def test_several_directories_and_folders_are_searched(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    add_runtime(one, "a", name="a")
    add_runtime(one, "b", name="b")
    add_runtime(other, "a", name="c")
    (other / "no-runtime").mkdir()
    (other / "README").write_text("nothing to load", encoding="utf-8")
    assert set(manager(one, other).names) == OWN | {"a", "b", "c"}


@pytest.mark.parametrize("name", ["core", "lua"])
def test_two_runtimes_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    add_runtime(tmp_path, "first", name="lua")
    add_runtime(tmp_path, "second", name=name)
    message = fault(tmp_path)
    assert f"a runtime named '{name}' exists already" in message
    assert str(tmp_path / "second") in message


def test_a_runtime_of_another_name_than_its_folder_announces_is_refused(tmp_path: Path) -> None:
    add_runtime(tmp_path, "lua", name="lua", host=THIRD_PARTY.replace("NAME", "python"))
    assert fault(tmp_path) == (
        f"{tmp_path / 'lua'}: it is announced as 'lua', but its RUNTIME is named 'python'"
    )


class Lua(CoreRuntime):
    """The core runtime by another name."""

    name = "lua"


def add_entry_point(monkeypatch: pytest.MonkeyPatch, load: Callable[[], object]) -> None:
    entry = SimpleNamespace(name="lua", value="lua_runtime:RUNTIME", load=load)
    monkeypatch.setattr("spear_wasm.runtime_manager.entry_points", lambda group: [entry])


def test_an_entry_point_is_a_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    add_entry_point(monkeypatch, Lua)
    assert set(manager().names) == OWN | {"lua"}


def test_a_runtime_from_a_folder_runs_guests(tmp_path: Path, workshop: Workshop) -> None:
    own = Path(__file__).parents[2] / "runtimes" / "core" / "host.py"
    add_runtime(
        tmp_path, "other", name="other", host=own.read_text(encoding="utf-8").replace('"core"', '"other"')
    )
    _, module = workshop.compiled("calc")
    other = manager(tmp_path).find("other", module)
    assert [each.name for each in other.signatures(module)] == [
        each.name for each in RUNTIME.signatures(module)
    ]


def test_the_files_of_a_folder_import_each_other_and_not_those_of_another(tmp_path: Path) -> None:
    host = THIRD_PARTY.replace("@dataclass", "from .names import own_name\n\n@dataclass", 1)
    for directory, name in (("one", "lua"), ("other", "python")):
        add_runtime(tmp_path / directory, "same", name=name, host=host.replace('"NAME"', "own_name"))
        names = tmp_path / directory / "same" / "names.py"
        names.write_text(f"own_name = {name!r}\n", encoding="utf-8")
    assert set(manager(tmp_path / "one", tmp_path / "other").names) == OWN | {"lua", "python"}


# --- the operator's mistakes ------------------------------------------------------------------------------


def test_a_directory_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert fault(tmp_path / "missing") == f"the runtimes directory {tmp_path / 'missing'} does not exist"


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (b"name = ", "runtime.toml"),
        (b"\xff", "runtime.toml"),
        (b'name = "lua"', "lacks 'host'"),
        (b'host = "host.py"', "lacks 'name'"),
        (b'name = "lua"\nhost = 7', "runtime.toml"),
        (b'name = "lua"\nhost = "host.txt"', "not a Python file"),
        (b'name = "lua"\nhost = "missing.py"', "missing.py does not load: FileNotFoundError"),
    ],
)
def test_a_description_that_is_wrong_is_refused_with_its_path(
    tmp_path: Path, description: bytes, words: str
) -> None:
    add_runtime(tmp_path, "lua", name="lua")
    (tmp_path / "lua" / "runtime.toml").write_bytes(description)
    message = fault(tmp_path)
    assert words in message
    assert str(tmp_path / "lua") in message


def test_an_entry_point_that_does_not_load_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> object:
        raise ImportError("no module of that name")

    add_entry_point(monkeypatch, load)
    assert fault() == "lua_runtime:RUNTIME does not load: ImportError: no module of that name"


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("import no_such_module_anywhere", "does not load: ModuleNotFoundError"),
        ("def (", "does not load: SyntaxError"),
        ("1 / 0", "does not load: ZeroDivisionError"),
        ("", "its RUNTIME is not a runtime"),
        ("RUNTIME = 'lua'", "its RUNTIME is not a runtime"),
    ],
)
def test_a_host_file_that_does_not_load_or_holds_no_runtime_is_refused(
    tmp_path: Path, host: str, words: str
) -> None:
    add_runtime(tmp_path, "lua", name="lua", host=host)
    message = fault(tmp_path)
    assert words in message
    assert str(tmp_path / "lua") in message
