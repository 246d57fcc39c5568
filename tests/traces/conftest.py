"""Stores of both kinds."""

import pytest

from tests.traces.postgres import running_cluster


@pytest.fixture(scope="session")
def cluster():
    """A PostgreSQL server; what it writes need not survive a power failure."""
    with running_cluster("fsync=off") as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """An empty store: a folder, or a database."""
    return tmp_path / "store" if request.param == "sqlite" else request.getfixturevalue("cluster").new_place()
