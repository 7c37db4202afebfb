from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spear_wasm.client.stubs import artifact_pb2, function_pb2
from spear_wasm.config import Config
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer, artifact

FIXTURES = Path(__file__).parents[2] / "fixtures"
COMPONENTS = FIXTURES / "components"
MODULES = [
    path
    for kind in ("wasm", "wasi", "extism", "components")
    for path in sorted((FIXTURES / kind).glob("*.wasm"))
]

ADD_WAT = """\
(module
  (import "spear" "write_log" (func (param i32 i32)))
  (memory (export "memory") 1 4)
  (func (export "add") (param $left i32) (param $right i32) (result i32)
    (i32.add (local.get $left) (local.get $right))))
"""


@pytest.fixture
def wat(tmp_path: Path) -> Path:
    file = tmp_path / "adder.wat"
    file.write_text(ADD_WAT)
    return file


# --- push ---------------------------------------------------------------------------------------------------


def uploaded(server: FakeServer) -> tuple[artifact_pb2.UploadArtifactHeader, bytes]:
    header, *parts = server.request
    return header.header, b"".join(part.chunk for part in parts)


@pytest.fixture
def accepting(server: FakeServer) -> FakeServer:
    server.answers["UploadArtifact"] = artifact_pb2.UploadArtifactResponse(artifact=artifact(), created=True)
    return server


def test_push_uploads_a_file_under_its_own_name(accepting: FakeServer, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "calc.wasm"
    file.write_bytes(b"\0asm rest")
    result = cli("push", str(file))
    assert result.exit_code == 0
    assert result.stdout == f"calc:1  sha256:{'ab' * 32}\n"
    assert result.stderr == "1.5 KiB, functions: 0\n"
    header, module = uploaded(accepting)
    assert (header.name, header.version, module) == ("calc", "", b"\0asm rest")


def test_push_takes_a_name_and_a_version(accepting: FakeServer, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "calc.wasm"
    file.write_bytes(b"\0asm")
    cli("push", str(file), "team/calc:1.2")
    header, _ = uploaded(accepting)
    assert (header.name, header.version) == ("team/calc", "1.2")


@pytest.mark.parametrize("name", ["adder.wat", "adder.txt"])
def test_push_converts_text_on_the_callers_side(
    accepting: FakeServer, cli: Cli, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    file.write_text("\ufeff\n" + ADD_WAT)
    assert cli("push", str(file)).exit_code == 0
    header, module = uploaded(accepting)
    assert header.name == "adder"
    assert module.startswith(b"\0asm\1\0\0\0")
    assert header.size_bytes == len(module)


def test_push_says_where_text_is_wrong(server: FakeServer, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "broken.wat"
    file.write_text("(module\n  (func (param i33)))")
    result = cli("push", str(file))
    assert result.exit_code == 2
    assert "2:16" in result.stderr
    assert not server.requests


def test_push_prints_a_document_for_programs(accepting: FakeServer, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "calc.wasm"
    file.write_bytes(b"\0asm")
    document = json.loads(cli("push", str(file), "--format", "json").stdout)
    assert document["created"] is True
    assert document["artifact"]["size_bytes"] == 1536
    assert document["artifact"]["created_at"] == "2026-01-02T03:04:05Z"
    assert document["artifact"]["functions"] == []


# --- list, inspect, rm --------------------------------------------------------------------------------------


def test_list_aligns_its_columns_and_cuts_nothing(server: FakeServer, cli: Cli) -> None:
    long_name = "team/" + "n" * 120
    server.answers["ListArtifacts"] = artifact_pb2.ListArtifactsResponse(
        artifacts=[artifact(long_name), artifact("evil\nname\x1b")]
    )
    head, first, second = cli("list", "t").stdout.splitlines()
    assert head.split()[:3] == ["NAME", "VERSION", "SIZE"]
    assert first.startswith(f"{long_name}  1 ")
    assert second.startswith("evil\\nname\\x1b ")
    assert first.index("1.5 KiB") == second.index("1.5 KiB") == head.index("SIZE")
    assert server.request.prefix == "t"


def test_list_is_one_document_for_programs(server: FakeServer, cli: Cli) -> None:
    server.answers["ListArtifacts"] = artifact_pb2.ListArtifactsResponse(
        artifacts=[artifact(labels={"a": "b"})]
    )
    (listed,) = json.loads(cli("list", "--format", "json").stdout)["artifacts"]
    assert (listed["name"], listed["labels"]) == ("calc", {"a": "b"})


def test_inspect_shows_an_artifact_of_the_server(server: FakeServer, cli: Cli) -> None:
    field = artifact_pb2.ValueField
    function = artifact_pb2.FunctionSignature(
        name="div\x1bmod",
        params=[field(name="a", type="i32"), field(type="i32")],
        results=[field(type="i32")] * 2,
    )
    server.answers["GetArtifact"] = artifact(
        functions=[function], imports=[artifact_pb2.ImportInfo(module="spear", name="log", type="func")]
    )
    text = cli("inspect", "calc:1").stdout
    assert "  div\\x1bmod(a: i32, i32) -> i32, i32\n" in text
    assert f"sha256:{'ab' * 32}" in text
    assert "spear   log   func" in text


def test_inspect_reads_a_file_without_a_server(cli: Cli, wat: Path) -> None:
    result = cli("inspect", str(wat), "--addr", "127.0.0.1:1")
    assert result.exit_code == 0
    assert "  add(left: i32, right: i32) -> i32\n" in result.stdout
    assert "64 KiB, may grow to 256 KiB" in result.stdout
    assert "spear   write_log" in result.stdout


def test_inspect_describes_a_file_to_programs(cli: Cli, wat: Path) -> None:
    document = json.loads(cli("inspect", str(wat), "--format", "json").stdout)
    (function,) = document["functions"]
    assert function["params"] == [{"name": "left", "type": "i32"}, {"name": "right", "type": "i32"}]
    assert document["memory_max_pages"] == 4


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_inspect_reads_what_every_toolchain_makes(cli: Cli, path: Path) -> None:
    result = cli("inspect", str(path))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "functions" in result.stdout


def test_inspect_shows_what_a_component_in_a_file_offers(cli: Cli) -> None:
    result = cli("inspect", str(COMPONENTS / "calc.wasm"))
    assert result.exit_code == 0
    assert "  find(texts: list<string>, wanted: string) -> option<u32>\n" in result.stdout
    assert (
        "  lab:calc/shapes@0.1.0#counter.up(self: counter as record { start: u32 }) -> u32\n" in result.stdout
    )
    document = json.loads(cli("inspect", str(COMPONENTS / "calc.wasm"), "--format", "json").stdout)
    assert {"name": "add", "params": [{"name": "a", "type": "s32"}, {"name": "b", "type": "s32"}],
            "results": [{"name": "", "type": "s32"}]} in document["functions"]  # fmt: skip


@pytest.mark.parametrize(("component", "function"), [("program", "_start("), ("http", "handle(")])
def test_inspect_shows_what_a_runtime_makes_of_a_component(cli: Cli, component: str, function: str) -> None:
    result = cli("inspect", str(COMPONENTS / f"{component}.wasm"))
    assert f"\n  {function}" in result.stdout
    assert "func func" not in result.stdout


@pytest.mark.parametrize(
    ("module", "runtime", "function"),
    [
        ("wasm/mandelbrot", "core", "render(input: bytes) -> bytes"),
        ("wasi/files", "wasi_command", "_start() -> bytes"),
        ("extism/vowels", "extism", "count_vowels(input: bytes) -> bytes"),
    ],
)
def test_inspect_shows_what_a_runtime_makes_of_a_module(
    cli: Cli, module: str, runtime: str, function: str
) -> None:
    file = str(FIXTURES / f"{module}.wasm")
    result = cli("inspect", file)
    assert f"\n  {function}" in result.stdout
    assert json.loads(cli("inspect", file, "--format", "json").stdout)["runtime_type"] == runtime


def test_inspect_shows_what_a_module_exports_that_nobody_runs(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "wanting.wat"
    file.write_text(ADD_WAT.replace("write_log", "mystery"), encoding="utf-8")
    assert "  add(left: i32, right: i32) -> i32\n" in cli("inspect", str(file)).stdout
    assert json.loads(cli("inspect", str(file), "--format", "json").stdout)["runtime_type"] == ""


def test_inspect_shows_a_component_that_nobody_runs_all_the_same(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "wanting.wat"
    file.write_text(
        '(component (import "a:b/c" (instance (export "f" (func (param "x" u8))))))', encoding="utf-8"
    )
    assert "a:b/c   f     func(x: u8)" in cli("inspect", str(file)).stdout


def test_inspect_refuses_a_file_that_is_no_module(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "rubbish"
    file.write_bytes(b"\x7fELF")
    assert cli("inspect", str(file)).exit_code == 2


def test_rm_removes(server: FakeServer, cli: Cli) -> None:
    server.answers["DeleteArtifact"] = artifact_pb2.DeleteArtifactResponse(deleted=True)
    assert cli("rm", "calc:1", "--force").exit_code == 0
    assert server.request == artifact_pb2.DeleteArtifactRequest(reference="calc:1", force=True)


@pytest.mark.parametrize("force", [False, True])
def test_a_task_is_removed(server: FakeServer, cli: Cli, force: bool) -> None:
    server.answers["DeleteTask"] = function_pb2.DeleteTaskResponse(success=True, deleted=True)
    result = cli("rm", "--task", "mornings", *["--force"] * force)
    assert (result.exit_code, result.stdout) == (0, "")
    assert server.request == function_pb2.DeleteTaskRequest(task_id="mornings", force=force)


# --- tasks, health, stats -----------------------------------------------------------------------------------


def test_tasks_are_listed(server: FakeServer, cli: Cli) -> None:
    task = function_pb2.TaskInfo(
        task_id="task-1",
        task_name="calc:1",
        artifact_spec=function_pb2.ArtifactSpec(artifact_id="calc"),
        updated_at=1_767_323_045_678,
        execution_count=7,
        last_status=function_pb2.EXECUTION_STATUS_COMPLETED,
        running_executions=2,
        pending_executions=3,
    )
    server.answers["ListTasks"] = function_pb2.ListTasksResponse(tasks=[task])
    _, row = cli("tasks").stdout.splitlines()
    assert row.split() == ["calc:1", "calc", "2", "3", "7", "COMPLETED", "2026-01-02", "03:04:05", "task-1"]
    (listed,) = json.loads(cli("tasks", "--format", "json").stdout)["tasks"]
    assert listed["last_status"] == "EXECUTION_STATUS_COMPLETED"
    assert listed["updated_at"] == 1_767_323_045_678


@pytest.mark.parametrize(("status", "exit_code"), [("healthy", 0), ("degraded", 0), ("unhealthy", 3)])
def test_health_is_an_exit_code_too(server: FakeServer, cli: Cli, status: str, exit_code: int) -> None:
    server.answers["GetHealth"] = function_pb2.GetHealthResponse(status=status, message="so it is")
    result = cli("health")
    assert result.exit_code == exit_code
    assert f"{status}, so it is" in result.stdout
    document = json.loads(cli("health", "--format", "json").stdout)
    assert document["health"]["status"] == status
    assert document["health"]["details"] is None


def test_stats_are_shown(server: FakeServer, cli: Cli) -> None:
    server.answers["GetStats"] = function_pb2.GetStatsResponse(
        function_service_stats=function_pb2.FunctionServiceStats(
            execution_count=12345, average_response_time_ms=1.5
        )
    )
    text = cli("stats").stdout
    assert "12,345" in text
    assert "1.5 ms" in text
    document = json.loads(cli("stats", "--format", "json").stdout)
    assert document["stats"]["function_service_stats"]["execution_count"] == 12345


# --- serve, completion, the environment ---------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path, Config]]:
    """What the server was started with, in place of a server."""
    started: list[tuple[str, Path, Config]] = []

    def serve(address: str, data_dir: Path, config: Config, on_listening: object, *, insecure: bool) -> None:
        assert not insecure
        started.append((address, data_dir, config))
        assert callable(on_listening)
        on_listening("127.0.0.1:4711")

    monkeypatch.setattr("spear_wasm.rpc.server.serve", serve)
    return started


def test_serve_says_one_line(cli: Cli, served: list[tuple[str, Path, Config]], tmp_path: Path) -> None:
    result = cli("serve", "--addr", "127.0.0.1:0", "--data-dir", str(tmp_path))
    assert (result.exit_code, result.stdout) == (0, "listening on 127.0.0.1:4711\n")
    assert served == [("127.0.0.1:0", tmp_path, Config())]


def test_serve_reads_a_file_and_lets_options_win(
    cli: Cli, served: list[tuple[str, Path, Config]], tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[log]\nformat = "json"\nlevel = "error"\n')
    assert cli("serve", "--config", str(file), "--log-format", "console").exit_code == 0
    ((_, _, config),) = served
    assert (config.log.format, config.log.level) == ("console", "error")


def test_serve_keeps_its_data_where_such_data_belongs(
    cli: Cli, served: list[tuple[str, Path, Config]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    cli("serve")
    ((address, data_dir, _),) = served
    assert (address, data_dir) == ("127.0.0.1:50052", tmp_path / "spear-wasm")


def test_a_wrong_configuration_is_the_callers_mistake(
    cli: Cli, served: list[tuple[str, Path, Config]], tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[engine]\nsandboxen = 3\n")
    result = cli("serve", "--config", str(file))
    assert result.exit_code == 2
    assert "sandboxen" in result.stderr
    assert not served


def test_serve_takes_every_key_as_a_flag_or_a_variable(
    cli: Cli, served: list[tuple[str, Path, Config]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEAR_WASM_EXECUTION_MAX_RUNNING", "7")
    monkeypatch.setenv("SPEAR_WASM_DATA_DIR", str(tmp_path))
    assert cli("serve", "--server-shutdown-grace", "1m").exit_code == 0
    ((_, data_dir, config),) = served
    assert (data_dir, config.execution.max_running, float(config.server.shutdown_grace)) == (tmp_path, 7, 60)
    told = cli("serve", "--help").stdout
    assert "--execution-max-running" in told
    assert "SPEAR_WASM_EXECUTION_MAX_RUNNING" in told


def test_config_shows_what_is_in_force_and_where_it_comes_from(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[artifacts]\nmax_disk = "2GiB"\n')
    monkeypatch.setenv("SPEAR_WASM_CONFIG", str(file))
    rows = [row.split() for row in cli("config", "--log-level", "debug").stdout.splitlines()]
    assert ["artifacts.max_disk", "2GiB", str(file)] in rows
    assert ["log.level", "debug", "--log-level"] in rows
    assert ["server.shutdown_grace", "10s", "default"] in rows
    document = json.loads(cli("config", "--format", "json").stdout)["config"]
    assert document["artifacts.max_disk"] == {"value": 2 << 30, "source": str(file)}
    assert document["runtimes.directories"] == {"value": [], "source": "default"}


def test_a_variable_that_says_nothing_to_anybody_is_refused(
    cli: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEAR_WASM_EXECUTION_MAX_RUNING", "7")
    for words in (("config",), ("call", "calc", "add")):
        result = cli(*words)
        assert result.exit_code == 2
        assert "SPEAR_WASM_EXECUTION_MAX_RUNING" in result.stderr
        assert "did you mean SPEAR_WASM_EXECUTION_MAX_RUNNING?" in result.stderr
    assert not server.requests
    assert cli("call", "--help").exit_code == 0


def test_options_come_from_the_environment(
    server: FakeServer, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEAR_WASM_FORMAT", "json")
    monkeypatch.setenv("SPEAR_WASM_CALL_TIMEOUT", "2s")
    server.answers_with()
    assert json.loads(cli("call", "calc", "f").stdout)["ok"]
    assert server.request.context.timeout_ms == 2000


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_back_by_our_name(cli: Cli, shell: str) -> None:
    result = cli("completion", shell)
    assert result.exit_code == 0
    assert f"_SPEAR_WASM_COMPLETE={shell}_complete" in result.stdout


def test_the_package_can_be_run_as_a_module() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "spear_wasm.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith("Usage: spear-wasm [OPTIONS] COMMAND")
