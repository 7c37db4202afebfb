"""The wheel: what it holds, and that a server runs from it where there is no checkout."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
MODULE = CHECKOUT / "fixtures" / "wasm" / "calc.wasm"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, made by the build backend that is installed here."""
    directory = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (made,) = directory.iterdir()
    return made


def content_below(folder: str) -> set[str]:
    """The files of a folder of the checkout, without what Python leaves."""
    found = (path.relative_to(CHECKOUT) for path in (CHECKOUT / folder).rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts and path.name[0] != "."}


def test_it_holds_the_package_with_its_runtimes_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    runtimes = {f"spear_wasm/_{name}" for name in content_below("runtimes")}
    assert held == content_below("spear_wasm") | runtimes
    assert "spear_wasm/_runtimes/core/runtime.toml" in held
    assert "spear_wasm/api/function_pb2_grpc.py" in held
    assert "spear_wasm/py.typed" in held


def test_it_installs_one_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        entry_points = ConfigParser()
        entry_points.read_string(archive.read(name).decode())
    assert {group: dict(entry_points[group]) for group in entry_points.sections()} == {
        "console_scripts": {"spear-wasm": "spear_wasm.cli:main"}
    }


class Installation:
    """The wheel in an environment of its own, which shares no more with ours than the packages it depends on."""

    def __init__(self, wheel: Path, directory: Path) -> None:
        self._elsewhere = directory / "elsewhere"
        self._elsewhere.mkdir()
        environment = directory / "environment"
        venv.create(environment, symlinks=True)
        self._bin = environment / "bin"
        self._pip_install(wheel)
        # A line in a .pth file comes last on the path, and no .pth files are read there: our own editable
        # installation stays out of sight.
        (packages,) = environment.glob("lib/python*/site-packages")
        (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")

    def _pip_install(self, wheel: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self._bin / "python"), "--isolated"]
        subprocess.run(
            [
                *pip,
                "install",
                "--quiet",
                "--no-index",
                "--no-deps",
                "--disable-pip-version-check",
                str(wheel),
            ],
            check=True,
            capture_output=True,
        )

    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self._bin}{os.pathsep}{os.defpath}", "HOME": str(self._elsewhere)}

    def run(self, *command: str) -> str:
        """What a command of the installation prints, run where no checkout is."""
        program = self._bin / command[0]
        return subprocess.run(
            [program, *command[1:]],
            cwd=self._elsewhere,
            env=self.environment(),
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    @contextmanager
    def server(self) -> Iterator[str]:
        """The address of a server, which ends in order."""
        serve: list[str | Path] = [
            self._bin / "spear-wasm",
            "serve",
            "--addr",
            "127.0.0.1:0",
            "--data-dir",
            "data",
        ]
        with subprocess.Popen(
            serve,
            cwd=self._elsewhere,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().removeprefix("listening on ").strip()
                process.terminate()
                assert process.wait() == 0
            finally:
                process.kill()


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    directory = tmp_path_factory.mktemp("installed")
    yield Installation(wheel, directory)
    shutil.rmtree(directory)


def test_what_is_imported_is_what_was_installed(installation: Installation) -> None:
    imported = Path(installation.run("python", "-c", "import spear_wasm; print(spear_wasm.__file__)").strip())
    assert not imported.is_relative_to(CHECKOUT)
    assert "site-packages" in imported.parts


def test_it_compiles_and_calls_in_process(installation: Installation) -> None:
    assert installation.run("spear-wasm", "run", str(MODULE), "add", "1", "2").splitlines()[0] == "3"


def test_it_serves_what_its_own_command_line_uploads_and_calls(installation: Installation) -> None:
    with installation.server() as address:
        installation.run("spear-wasm", "push", str(MODULE), "--addr", address)
        answer = installation.run("spear-wasm", "call", "calc", "add", "40", "2", "--addr", address)
    assert answer.splitlines()[0] == "42"
