"""All functions of WASI preview 1."""

from __future__ import annotations

from spear_wasm.wasi.preview1.descriptor_calls import DESCRIPTOR_CALLS
from spear_wasm.wasi.preview1.path_calls import PATH_CALLS
from spear_wasm.wasi.preview1.poll_calls import poll_oneoff
from spear_wasm.wasi.preview1.process_calls import PROCESS_CALLS

WASI_FUNCTIONS = (*PROCESS_CALLS, *DESCRIPTOR_CALLS, *PATH_CALLS, poll_oneoff)
