"""Data for the tests of the experiments."""

import pytest


@pytest.fixture
def digits_prepared(data_dir, monkeypatch):
    """Set the folder of data sets to that of this session, which contains `digits`."""
    monkeypatch.setenv("TFDS_DATA_DIR", data_dir)
