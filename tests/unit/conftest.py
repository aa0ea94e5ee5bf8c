from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from .builds import AtScale, Log, Store
from .flows import Clock

settings.register_profile(
    "unit", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("unit")


@pytest.fixture
def server():
    return AtScale(Clock())


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def log():
    return Log()
