"""The official tests of WASI preview 1, all of which wasmtime's command line passes."""

from __future__ import annotations

import json
import shutil
import tarfile
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spear_wasm.engine.outcome import GuestExit
from spear_wasm.engine.sandbox import ExportedFunction, Sandbox
from spear_wasm.model import FunctionType
from spear_wasm.wasi.guest import WasiCall
from spear_wasm.wasi.preview1.functions import WASI_FUNCTIONS
from spear_wasm.wasi.preview1.guest import WasiGuest
from spear_wasm.wasi.volume import Volume
from tests.workshop import LIMITS, Workshop, bare_sandbox, run_slice

ARCHIVE = Path(__file__).parents[3] / "fixtures" / "wasi" / "testsuite.tar.xz"
OFFERS = {(each.module, each.name): each for each in WASI_FUNCTIONS}
ROOMY = replace(LIMITS, max_output_bytes=1 << 20)
with tarfile.open(ARCHIVE) as packed:
    TESTS = [Path(name).with_suffix("") for name in packed.getnames() if name.endswith(".wasm")]


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests, unpacked."""
    unpacked = tmp_path_factory.mktemp("suite")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(unpacked, filter="data")
    return unpacked


def run(sandbox: Sandbox, steps: Generator[None, None, object]) -> int:
    """Run a program to its end; where it waits for a time, so does this. Its exit status."""
    try:
        while True:
            run_slice(sandbox, steps)
            wait = sandbox.waits_for
            if wait is not None and wait.until is not None:
                time.sleep(max(0.0, wait.until - time.monotonic()))
                wait.end()
    except GuestExit as exited:
        return exited.status
    except StopIteration:
        return 0


def expectation(test: Path) -> dict[str, Any]:
    """How a test is to be started and to end, where that is not without anything, and well."""
    file = test.with_suffix(".json")
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return said


def test_none_of_them_is_missing() -> None:
    assert len(TESTS) == 72


@pytest.mark.parametrize("name", TESTS, ids=lambda name: f"{name.parts[1]}-{name.name}")
def test_the_official_test(name: Path, suite: Path, workshop: Workshop, tmp_path: Path) -> None:
    test = suite / name
    expected = expectation(test)
    volumes = []
    if "root" in expected:
        shutil.copytree(test.parent / expected["root"], tmp_path / "root")
        volumes.append(Volume("/", tmp_path / "root", writable=True))
    _, module = workshop.compiled(str(test))
    linked = workshop.link(
        str(test), {key: OFFERS[key] for key in {(i.module, i.name) for i in module.imports}}
    )
    with bare_sandbox(linked, ROOMY) as sandbox:
        guest = WasiGuest(sandbox, expected.get("env", {}), volumes)
        sandbox.state = guest
        guest.begin(WasiCall([b"test", *map(str.encode, expected.get("args", []))]))
        run(sandbox, sandbox.instantiate())
        status = run(sandbox, sandbox.call(ExportedFunction("_start", FunctionType()), ()))
        assert status == expected.get("exit_code", 0), sandbox.usage(0).stderr.decode()
        assert expected.get("stdout", sandbox.output.decode()) == sandbox.output.decode()
