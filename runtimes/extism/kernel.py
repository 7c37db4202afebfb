"""The module that stands beside plug-ins (kernel.wat): what it calls in its host, and what is found in its memory."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from inspect import isgeneratorfunction
from pathlib import Path

from spear_wasm.engine.accompanied_sandbox import AccompaniedSandbox
from spear_wasm.engine.companion import Companion
from spear_wasm.engine.host_calls import HostFunction, Implementation
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.model import ErrorCode, FunctionType, ValueType
from spear_wasm.spear_interface import LEVELS

from .http_calls import http_headers, http_request, http_status_code
from .plugin import plugin_of, read_block

I32, I64 = ValueType.I32, ValueType.I64
KERNEL = Path(__file__).parent / "kernel.wasm"
PLUGIN_MODULE = "extism:host/env"
"""What plug-ins import from, and the kernel stands for."""
KERNEL_MODULE = "spear:extism"
"""What the kernel imports from."""
_REGISTERS = struct.Struct("<4Q")


def output_and_error(sandbox: AccompaniedSandbox) -> tuple[tuple[int, int], tuple[int, int]]:
    """The offset and length of what the plug-in set as output, and of what it set as error.

    An offset is 0 where it set none; both may be anything below 2^64.
    """
    output, output_length, error, error_length = _REGISTERS.unpack(sandbox.read_companion(0, _REGISTERS.size))
    return (output, output_length), (error, error_length)


def read_range(sandbox: AccompaniedSandbox, offset: int, length: int) -> bytes:
    """A copy of a range that the plug-in named.

    Raises:
        GuestFault: the range lies outside the memory that it shares with us.
    """
    if max(offset, length) >> 32:
        raise GuestFault(
            ErrorCode.GUEST_ERROR, f"the plug-in named {length} bytes at {offset}, far beyond its memory"
        )
    return sandbox.read_companion(offset, length)


def _grow(sandbox: AccompaniedSandbox, pages: int) -> int:
    return int(sandbox.grow_companion(pages & 0xFFFFFFFF))


def _take(sandbox: AccompaniedSandbox, offset: int) -> None:
    plugin = plugin_of(sandbox)
    content, plugin.handed_over = plugin.handed_over, b""
    if not offset:
        raise GuestFault(
            ErrorCode.GUEST_ERROR, f"the plug-in has no memory left for {len(content)} bytes from its host"
        )
    sandbox.write_companion(offset, content)


def _config_get(sandbox: AccompaniedSandbox, key: int, length: int) -> int:
    plugin = plugin_of(sandbox)
    return plugin.hand_over(
        plugin.settings.config.get(read_block(sandbox, "the configuration's key", key, length))
    )


def _var_get(sandbox: AccompaniedSandbox, key: int, length: int) -> int:
    plugin = plugin_of(sandbox)
    return plugin.hand_over(plugin.variables.get(read_block(sandbox, "the variable's key", key, length)))


def _var_set(sandbox: AccompaniedSandbox, key: int, key_length: int, value: int, value_length: int) -> None:
    variables = plugin_of(sandbox).variables
    name = read_block(sandbox, "the variable's key", key, key_length)
    if value:
        variables.set(name, read_block(sandbox, "the variable's value", value, value_length))
    else:
        variables.remove(name)


def _log(sandbox: AccompaniedSandbox, level: int, message: int, length: int) -> None:
    if level >= plugin_of(sandbox).settings.log_level:
        sandbox.log(LEVELS[level] + b": " + read_block(sandbox, "the message", message, length) + b"\n")


def _get_log_level(sandbox: AccompaniedSandbox) -> int:
    return plugin_of(sandbox).settings.log_level


def _functions() -> Mapping[tuple[str, str], HostFunction]:
    offered: list[tuple[str, FunctionType, Implementation]] = [
        ("grow", FunctionType((I32,), (I32,)), _grow),
        ("take", FunctionType((I32,)), _take),
        ("config_get", FunctionType((I32, I32), (I64,)), _config_get),
        ("var_get", FunctionType((I32, I32), (I64,)), _var_get),
        ("var_set", FunctionType((I32, I32, I64, I32)), _var_set),
        ("http_request", FunctionType((I32, I32, I64, I32), (I64,)), http_request),
        ("http_status_code", FunctionType((), (I32,)), http_status_code),
        ("http_headers", FunctionType((), (I64,)), http_headers),
        ("log", FunctionType((I32, I32, I32)), _log),
        ("get_log_level", FunctionType((), (I32,)), _get_log_level),
    ]
    return {
        (KERNEL_MODULE, name): HostFunction(
            KERNEL_MODULE, name, kind, implementation, waits=isgeneratorfunction(implementation)
        )
        for name, kind, implementation in offered
    }


COMPANION = Companion(PLUGIN_MODULE, KERNEL, _functions())
