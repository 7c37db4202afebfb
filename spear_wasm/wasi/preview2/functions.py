"""All functions and resources of WASI preview 2."""

from __future__ import annotations

from spear_wasm.wasi.preview2.cli import CLI
from spear_wasm.wasi.preview2.clocks import CLOCKS
from spear_wasm.wasi.preview2.filesystem_paths import FILESYSTEM
from spear_wasm.wasi.preview2.http_answering import HTTP_ANSWERING
from spear_wasm.wasi.preview2.http_client import HTTP_CLIENT
from spear_wasm.wasi.preview2.poll import POLL
from spear_wasm.wasi.preview2.random import RANDOM
from spear_wasm.wasi.preview2.sockets import SOCKETS
from spear_wasm.wasi.preview2.streams import ERRORS, STREAMS

# Both halves of HTTP add to one interface.
_HTTP = dict.fromkeys((*HTTP_CLIENT, *HTTP_ANSWERING))
_INTERFACES = (ERRORS, POLL, STREAMS, *CLOCKS, *RANDOM, *CLI, *FILESYSTEM, *SOCKETS, *_HTTP)

WASI_FUNCTIONS = tuple(function for interface in _INTERFACES for function in interface.functions)
WASI_RESOURCES = tuple(resource for interface in _INTERFACES for resource in interface.resources)
