"""Who may come in: addresses, TLS, clients' certificates and tokens, over real sockets."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives import serialization as form
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from spear_wasm.api import artifact_pb2, artifact_pb2_grpc, function_pb2, function_pb2_grpc
from spear_wasm.client import Client, ServerUnreachable, Tls
from spear_wasm.config import ServerConfig
from spear_wasm.errors import AccessDenied, ConfigurationError, SpearError
from spear_wasm.rpc.access import LOOK_EVERY, Tokens, check_openness, server_credentials
from tests.rpc.serving import PATIENCE, fixture, launch, refused, upload_parts

TOKEN = "correct-horse-battery"
OTHER = "another-token-entirely"


@dataclass(frozen=True)
class Pki:
    """Certificates in files: the server's, those of a client that its authority signed and of one that is strange."""

    authority: Path
    cert: Path
    key: Path
    client: tuple[Path, Path]
    stranger: tuple[Path, Path]
    other_authority: Path


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder = tmp_path_factory.mktemp("pki")
    ours, other = trustme.CA(), trustme.CA()

    def written(authority: trustme.CA, name: str) -> tuple[Path, Path]:
        issued = authority.issue_cert(name)
        chain, key = folder / f"{name}.{id(authority)}.pem", folder / f"{name}.{id(authority)}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return chain, key

    for name, authority in (("ours", ours), ("other", other)):
        authority.cert_pem.write_to_path(folder / f"{name}.pem")
    return Pki(
        folder / "ours.pem",
        *written(ours, "127.0.0.1"),
        client=written(ours, "client"),
        stranger=written(other, "stranger"),
        other_authority=folder / "other.pem",
    )


@contextlib.contextmanager
def serving(directory: Path, config: str, *, address: str = "127.0.0.1:0") -> Iterator[str]:
    """The address of a server of that configuration."""
    process, log = launch(directory, f"[server]\n{config}", address=address)
    assert process.stdout is not None
    with process:
        try:
            line = process.stdout.readline()
            assert line.startswith("listening on "), log.read_text()
            yield line.split()[-1]
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secrets") / "tokens"
    path.write_text(f"# who may come in\n{TOKEN}\n\n{OTHER}\n")
    return path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, token_file: Path) -> Iterator[str]:
    """A server on loopback that wants a token, in the clear."""
    with serving(tmp_path_factory.mktemp("guarded"), f'token_file = "{token_file}"') as address:
        yield address


def works(client: Client) -> bool:
    """An upload, a call, a stream and a log: a method of each kind."""
    with client:
        client.upload(fixture("calc"), name="calc")
        with client.stream("calc", "answer") as messages:
            assert list(messages) == []
        assert list(client.follow_log(client.submit("calc", "answer"))) == []
        return client.call("calc", "answer").value == 42


# --- tokens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [TOKEN, OTHER])
def test_who_brings_one_of_the_tokens_comes_in(guarded: str, token: str) -> None:
    assert works(Client(guarded, token=token))


METADATA = [
    (),
    (("authorization", f"Bearer {TOKEN}x"),),
    (("authorization", f"Bearer {TOKEN[:-1]}"),),
    (("authorization", "Bearer "),),
    (("authorization", f"Basic {TOKEN}"),),
    (("authorization", TOKEN),),
    (("authorization", "Bearer # who may come in"),),
    (("token", TOKEN),),
    (("authorization", "Bearer wrong"), ("authorization", f"Bearer {TOKEN}")),
]


@pytest.mark.parametrize("metadata", METADATA)
def test_whoever_else_comes_is_told_what_to_bring(
    guarded: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    with grpc.insecure_channel(guarded) as channel:
        functions = function_pb2_grpc.FunctionServiceStub(channel)
        artifacts = artifact_pb2_grpc.ArtifactServiceStub(channel)
        header = artifact_pb2.UploadArtifactHeader(name="calc")
        attempts = [
            lambda: functions.GetHealth(function_pb2.GetHealthRequest(), metadata=metadata, timeout=PATIENCE),
            lambda: artifacts.UploadArtifact(
                upload_parts(header, fixture("calc")), metadata=metadata, timeout=PATIENCE
            ),
            lambda: next(
                functions.StreamFunction(
                    function_pb2.InvokeFunctionRequest(), metadata=metadata, timeout=PATIENCE
                )
            ),
        ]
        for attempt in attempts:
            refusal = refused(AccessDenied, attempt)
            assert "authorization: Bearer" in refusal.message
            assert TOKEN not in refusal.message


def test_the_scheme_may_be_written_in_small_letters(guarded: str) -> None:
    with grpc.insecure_channel(guarded) as channel:
        functions = function_pb2_grpc.FunctionServiceStub(channel)
        metadata = (("authorization", f"bearer {TOKEN}"),)
        answer = functions.GetHealth(function_pb2.GetHealthRequest(), metadata=metadata, timeout=PATIENCE)
        assert answer.status == "healthy"


def test_standard_health_checks_need_no_token(guarded: str) -> None:
    with grpc.insecure_channel(guarded) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # whose type stubs lack its methods
        answer = health.Check(health_pb2.HealthCheckRequest(service=""), timeout=PATIENCE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_what_the_server_offers_is_told_to_those_who_may_come_in(guarded: str) -> None:
    with grpc.insecure_channel(guarded) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        refused(AccessDenied, lambda: next(stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE)))
        metadata = (("authorization", f"Bearer {TOKEN}"),)
        answer = next(stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE, metadata=metadata))
        assert "spearlet.FunctionService" in {each.name for each in answer.list_services_response.service}


def test_an_unknown_method_is_not_told_from_a_known_one_without_a_token(guarded: str) -> None:
    with grpc.insecure_channel(guarded) as channel:
        call: Any = channel.unary_unary("/spearlet.FunctionService/Nothing")
        refused(AccessDenied, lambda: call(b"", timeout=PATIENCE))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_tokens_are_read_again_when_their_file_has_changed(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens", Clock()
    path.write_text(TOKEN)
    tokens = Tokens(path, clock)
    path.write_text(OTHER)
    assert tokens.accept(TOKEN)
    clock.now += LOOK_EVERY
    assert not tokens.accept(TOKEN)
    assert tokens.accept(OTHER)


@pytest.mark.parametrize("content", [None, "", "short", "# remark only, long enough"])
def test_a_file_of_tokens_that_went_bad_changes_nothing(tmp_path: Path, content: str | None) -> None:
    path, clock = tmp_path / "tokens", Clock()
    path.write_text(TOKEN)
    tokens = Tokens(path, clock)
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    clock.now += LOOK_EVERY
    assert tokens.accept(TOKEN)


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing", "short", f"{TOKEN}\nshort"])
def test_a_server_does_not_start_without_tokens_worth_the_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="token"):
        Tokens(path)


# --- TLS --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory, pki: Pki, token_file: Path) -> Iterator[str]:
    """A server with TLS and tokens that listens on all addresses."""
    config = f'tls_cert = "{pki.cert}"\ntls_key = "{pki.key}"\ntoken_file = "{token_file}"'
    with serving(tmp_path_factory.mktemp("encrypted"), config, address="0.0.0.0:0") as address:
        yield f"127.0.0.1:{address.rpartition(':')[2]}"


def test_with_tls_and_a_token_a_server_may_be_reached_from_anywhere(encrypted: str, pki: Pki) -> None:
    assert works(Client(encrypted, tls=Tls(pki.authority), token=TOKEN))


def test_tls_alone_lets_nobody_in_where_a_token_is_wanted(encrypted: str, pki: Pki) -> None:
    with Client(encrypted, tls=Tls(pki.authority)) as client, pytest.raises(AccessDenied):
        client.health()


def test_a_client_does_not_speak_with_a_server_that_nobody_vouches_for(encrypted: str, pki: Pki) -> None:
    for tls in (Tls(pki.other_authority), True):
        with Client(encrypted, tls=tls, token=TOKEN, timeout=5) as client, pytest.raises(SpearError):
            client.health()


def test_a_client_in_the_clear_gets_nowhere(encrypted: str) -> None:
    with Client(encrypted, token=TOKEN, timeout=5) as client, pytest.raises(ServerUnreachable):
        client.health()


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[str]:
    """A server that wants to see certificates of its clients, and no token."""
    config = f'tls_cert = "{pki.cert}"\ntls_key = "{pki.key}"\ntls_client_ca = "{pki.authority}"'
    with serving(tmp_path_factory.mktemp("mutual"), config, address="0.0.0.0:0") as address:
        yield f"127.0.0.1:{address.rpartition(':')[2]}"


def test_a_client_with_a_certificate_of_the_authority_comes_in(mutual: str, pki: Pki) -> None:
    assert works(Client(mutual, tls=Tls(pki.authority, *pki.client)))


def test_a_client_without_one_or_with_another_does_not(mutual: str, pki: Pki) -> None:
    for tls in (Tls(pki.authority), Tls(pki.authority, *pki.stranger)):
        with Client(mutual, tls=tls, timeout=5) as client, pytest.raises(SpearError):
            client.health()


# --- what a server does not start with --------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0", "example.com:0", "127.1:0", "::1:0"]
)
@pytest.mark.parametrize("half", ["nothing", "tls", "token"])
def test_an_open_door_needs_a_flag_that_says_so(address: str, half: str) -> None:
    config = {
        "nothing": ServerConfig(),
        "tls": ServerConfig(tls_cert="a", tls_key="b"),
        "token": ServerConfig(token_file="c"),
    }[half]
    with pytest.raises(ConfigurationError, match="--insecure"):
        check_openness(address, config, insecure=False)
    check_openness(address, config, insecure=True)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0", "localhost:0"])
def test_loopback_needs_none(address: str) -> None:
    check_openness(address, ServerConfig(), insecure=False)


def test_a_server_for_other_machines_does_not_start_in_the_clear(tmp_path: Path) -> None:
    process, log = launch(tmp_path, address="0.0.0.0:0")
    with process:
        assert process.wait(PATIENCE) == 2
    assert "--insecure" in log.read_text()
    assert not (tmp_path / "data").exists()


def test_it_does_where_it_is_told_to(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "spear_wasm.cli",
        "serve",
        "--addr",
        "0.0.0.0:0",
        "--data-dir",
        str(tmp_path),
    ]
    with subprocess.Popen(
        [*command, "--insecure"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"listening on 0.0.0.0:")
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("fields", [{"tls_cert": "a"}, {"tls_key": "a"}, {"tls_client_ca": "a"}])
def test_half_of_what_tls_takes_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="tls_"):
        ServerConfig(**fields)


@pytest.mark.parametrize("broken", ["missing", "no pem", "another's key", "encrypted"])
def test_files_that_are_no_certificate_and_its_key_are_refused(tmp_path: Path, pki: Pki, broken: str) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    keys = {
        "missing": tmp_path / "nothing",
        "no pem": rubbish,
        "another's key": pki.client[1],
        "encrypted": _encrypted(tmp_path, pki),
    }
    with pytest.raises(ConfigurationError):
        server_credentials(ServerConfig(tls_cert=str(pki.cert), tls_key=str(keys[broken])))


def _encrypted(folder: Path, pki: Pki) -> Path:
    key = form.load_pem_private_key(pki.key.read_bytes(), None)
    secret = form.BestAvailableEncryption(b"secret")
    path = folder / "encrypted.key"
    path.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, secret))
    return path


# --- clients ----------------------------------------------------------------------------------------------


def test_a_token_does_not_leave_the_machine_in_the_clear() -> None:
    with pytest.raises(ConfigurationError, match="clear"):
        Client("192.0.2.1:1", token=TOKEN)


@pytest.mark.parametrize("token", ["with space", "line\nbreak", "ümlaut"])
def test_a_token_that_cannot_be_sent_is_refused(token: str) -> None:
    with pytest.raises(ConfigurationError, match="token"):
        Client("127.0.0.1:1", token=token)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing"):
        Client("127.0.0.1:1", tls=Tls(tmp_path / "nothing.pem"))
    with pytest.raises(ConfigurationError, match="together"):
        Client("127.0.0.1:1", tls=Tls(certificate=tmp_path))


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spear_wasm.cli", *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_command_line_brings_tokens_and_speaks_tls(encrypted: str, pki: Pki, token_file: Path) -> None:
    flags = command(
        "health", "--addr", encrypted, "--tls-ca", str(pki.authority), "--token-file", str(token_file)
    )
    assert flags.returncode == 0, flags.stderr
    by_variables = command(
        "health", SPEAR_WASM_ADDR=encrypted, SPEAR_WASM_TLS_CA=str(pki.authority), SPEAR_WASM_TOKEN=TOKEN
    )
    assert by_variables.returncode == 0, by_variables.stderr


def test_the_command_line_says_what_is_missing(encrypted: str, pki: Pki) -> None:
    ended = command("health", "--addr", encrypted, "--tls-ca", str(pki.authority))
    assert ended.returncode == 3
    assert "token" in ended.stderr
