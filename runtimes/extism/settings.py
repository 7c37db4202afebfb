"""What a task says about its plug-in, in runtime_config, by the names of Extism's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from spear_wasm.config import RuntimeConfig
from spear_wasm.errors import InvalidRequest
from spear_wasm.limits import Limits
from spear_wasm.model import WASM_PAGE_BYTES
from spear_wasm.outbound.rules import OutboundRules, grant_hosts
from spear_wasm.spear_interface import LEVELS
from spear_wasm.wasi.grants import MAX_DIRECTORIES, GrantedDirectory, Grants, grant_directory
from spear_wasm.wishes import Wishes

MOST_PAGES = 65536
LONGEST_MS = 2**53
READ_ONLY = "ro:"
"""Before a path of the host: plug-ins may not write there."""
LEVEL_NAMES = tuple(level.decode() for level in LEVELS)


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """A runtime_config, checked, and completed by what the server gives.

    `config` is what config_get finds, `grants` what WASI has for the plug-in, `max_http_requests` how many all plug-ins
    together may have under way. Of `max_pages` and `timeout_ms` 0 means: not said. Messages below `log_level`, an index
    of LEVELS, are not logged.
    """

    config: Mapping[bytes, bytes]
    grants: Grants
    rules: OutboundRules
    max_pages: int
    max_http_requests: int
    max_http_response_bytes: int
    max_var_bytes: int
    timeout_ms: int
    log_level: int

    @classmethod
    def parse(cls, wishes: Wishes, allowed: RuntimeConfig) -> Self:
        """The settings that a runtime_config asks for.

        Raises:
            InvalidRequest: a value is out of range or malformed.
            PermissionDenied: it names a host that the operator did not allow.
        """
        memory = wishes.part("memory")
        config = wishes.table("config")
        most_response, most_vars = int(allowed.max_http_response), int(allowed.max_vars)
        return cls(
            grants=Grants({}, _paths(wishes.table("allowed_paths"), allowed), scratch=0),
            config={key.encode(): value.encode() for key, value in config.items()},
            rules=grant_hosts(wishes.texts("allowed_hosts"), allowed.http_rules()),
            max_pages=memory.count("max_pages", 0, least=0, most=MOST_PAGES),
            max_http_requests=allowed.max_http_requests,
            max_http_response_bytes=memory.count(
                "max_http_response_bytes", most_response, least=0, most=most_response
            ),
            max_var_bytes=memory.count("max_var_bytes", most_vars, least=0, most=most_vars),
            timeout_ms=wishes.count("timeout_ms", 0, least=0, most=LONGEST_MS),
            log_level=LEVEL_NAMES.index(wishes.choice("log_level", "info", LEVEL_NAMES)),
        )

    def tightened(self, limits: Limits) -> Limits:
        """A task's limits, tightened by `memory.max_pages` and `timeout_ms`.

        Raises:
            InvalidRequest: the pages are more than the task has.
        """
        memory, time = self.max_pages * WASM_PAGE_BYTES, self.timeout_ms
        if memory > limits.max_memory_bytes:
            raise InvalidRequest(
                f"runtime_config.memory.max_pages of {self.max_pages} is {memory} bytes, above the task's "
                f"max_memory_bytes of {limits.max_memory_bytes}; ask for more in resource_limits",
                key="memory.max_pages",
            )
        return replace(
            limits,
            max_memory_bytes=memory or limits.max_memory_bytes,
            max_wall_time_ms=min(time or limits.max_wall_time_ms, limits.max_wall_time_ms),
        )


def _paths(asked: Mapping[str, str], allowed: RuntimeConfig) -> tuple[GrantedDirectory, ...]:
    if len(asked) > MAX_DIRECTORIES or len(set(asked.values())) < len(asked):
        raise InvalidRequest(
            f"runtime_config.allowed_paths has more than {MAX_DIRECTORIES} directories, or two by one path",
            key="allowed_paths",
        )
    return tuple(
        grant_directory(
            name,
            path.removeprefix(READ_ONLY),
            allowed,
            "allowed_paths",
            writable=not path.startswith(READ_ONLY),
        )
        for path, name in asked.items()
    )
