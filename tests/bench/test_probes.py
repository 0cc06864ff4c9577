"""Measured rates of the machine."""

import numpy as np
import pytest

from vae_jax.bench import probes


def test_the_rate_is_that_of_the_fastest_call(monkeypatch):
    durations = [5.0, 3.0, 4.0, 2.0, 9.0, 4.0, 3.0, 3.0]
    ends = np.cumsum(np.ravel([[0.0, seconds] for seconds in durations])).tolist()
    monkeypatch.setattr(probes.time, "perf_counter", iter(ends).__next__)
    assert probes.Probe(lambda: None, work=10.0).rate() == 5.0
    with pytest.raises(StopIteration):
        probes.Probe(lambda: None, work=10.0).rate()  # It measured all eight calls.
