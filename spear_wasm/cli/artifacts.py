"""`spear-wasm push`, `list`, `inspect` and `rm`: modules and what can be called in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from spear_wasm.cli.module_files import inspected, is_text, module_text_to_binary
from spear_wasm.cli.options import UTF8, address_option, format_option
from spear_wasm.cli.output import Output, printable
from spear_wasm.client import Client
from spear_wasm.units import format_duration, format_size
