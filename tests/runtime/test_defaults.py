"""Defaults that depend on the device."""

import types

import jax
import numpy as np
import pytest

from vae_jax.runtime import defaults, host, sharding


@pytest.mark.parametrize(
    ("batch_size", "num_samples", "settings", "expected"),
    [
        (128, 15, {}, 1),
        (128, 50, {}, 4),  # 1,600 samples each; six microbatches would be unequal
        (100, 50, {}, 5),
        (4096, 1, {}, 4),
        (127, 50, {}, 1),
        (128, 50, {"microbatches": 2}, 2),
        (4096, 1, {"divisible": False}, 1),
    ],
)
def test_a_cpu_decodes_about_a_thousand_samples_at_a_time(batch_size, num_samples, settings, expected):
    settings = {"microbatches": 0, "divisible": True} | settings

    def found(mesh):
        return defaults.num_microbatches(batch_size=batch_size, num_samples=num_samples, mesh=mesh, **settings)

    assert found(sharding.make_mesh(1)) == expected
    configured = settings["microbatches"] or 1
    assert found(sharding.make_mesh(8)) == configured
    assert found(types.SimpleNamespace(size=1, devices=np.array([types.SimpleNamespace(platform="gpu")]))) == configured


def test_the_evaluation_chunk_depends_on_the_device_unless_it_is_set(monkeypatch):
    assert defaults.evaluation_chunk(0) == 20
    monkeypatch.setattr(defaults.jax, "default_backend", lambda: "gpu")
    assert [defaults.evaluation_chunk(chunk) for chunk in (0, 7)] == [100, 7]


@pytest.mark.parametrize(
    ("batch_size", "flags", "count"), [(80, "", 4), (60, "", 3), (10, "", 1), (81, "", 3), (160, "", 5),
                                       (80, "--xla_force_host_platform_device_count=8", None)]
)  # fmt: skip
def test_a_cpu_is_split_into_devices_that_divide_a_batch(monkeypatch, batch_size, flags, count):
    updates = {}
    monkeypatch.setattr(host, "cores", lambda: 6)
    monkeypatch.setattr(jax.config, "update", lambda name, value: updates.update({name: value}))
    monkeypatch.setenv("XLA_FLAGS", flags)
    defaults.use_cores_as_devices(batch_size)
    assert updates == ({} if count is None else {"jax_num_cpu_devices": count})


def test_only_accelerators_add_up(monkeypatch):
    mesh = sharding.make_mesh(4)
    assert defaults.effective_devices(mesh) == 1
    monkeypatch.setattr(defaults.jax, "default_backend", lambda: "gpu")
    assert defaults.effective_devices(mesh) == 4
