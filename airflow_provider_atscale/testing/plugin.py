"""
A pytest plugin: a local AtScale engine for tests of DAGs.

Enable it in the ``conftest.py`` at the root of the tests::

    pytest_plugins = ["airflow_provider_atscale.testing.plugin"]

The fixture ``atscale_engine`` starts an engine for one test and makes it the connection
``atscale_default``; batches take 0.3 seconds::

    def test_aggregates_are_built(atscale_engine, dag):
        dag.test()
        assert [batch.status for batch in atscale_engine.batches] == ["done"]


    @pytest.mark.atscale_engine(edition="installer", build_seconds=1)
    def test_failed_build(atscale_engine, dag):
        atscale_engine.fail_next("Internet Sales")
        ...

The arguments of the marker are those of :class:`~airflow_provider_atscale.testing.AtScaleEngine`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_atscale.testing.server import AtScaleEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUILD_SECONDS = 0.3


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "atscale_engine(**options): how the fixture atscale_engine is set up")


@pytest.fixture
def atscale_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[AtScaleEngine]:
    """Run a local AtScale engine as the connection ``atscale_default``."""
    marker = request.node.get_closest_marker("atscale_engine")
    options: dict[str, Any] = {"build_seconds": _BUILD_SECONDS, **(marker.kwargs if marker else {})}
    with AtScaleEngine(**options) as engine:
        monkeypatch.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json())
        yield engine
