from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wasi.preview1.guests import Guests
from tests.workshop import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    made = Workshop(tmp_path_factory.mktemp("workshop"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def guests(workshop: Workshop) -> Guests:
    return Guests(workshop)
