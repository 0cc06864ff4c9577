"""The registry: choices are found by name, and what cannot be a choice is refused."""

import dataclasses
import subprocess
import sys

import jax
import pytest
from own_choices import own_choices

from vae_jax.config.building import from_flat, override
from vae_jax.config.fields import setting
from vae_jax.config.flat import flatten
from vae_jax.config.presets import PRESETS
from vae_jax.config.registry import SECTIONS, Choice, choice, choices, register
from vae_jax.errors import InputError


@pytest.fixture(autouse=True)
def _forget_choices():
    with own_choices():
        yield


def make(section="estimator", name="mine"):
    @register(section, name)
    @dataclasses.dataclass(frozen=True)
    class Mine(type(choice("estimator", "pathwise"))):
        rate: float = setting(0.5, "A rate.", above=0)

    return Mine


def test_a_registered_class_is_a_choice_everywhere():
    cls = make()
    assert (cls.section, cls.name) == ("estimator", "mine")
    assert choices("estimator")["mine"] is cls
    config = override(PRESETS["digits"], estimator="mine", estimator__rate=2)
    assert config.estimator == cls(rate=2)
    flat = flatten(config)
    assert (flat["estimator"], flat["estimator.rate"]) == ("mine", 2)
    assert from_flat(flat) == config
    with pytest.raises(InputError, match=r"^estimator\.rate=-1 must be greater than 0$"):
        override(config, estimator__rate=-1)


def test_every_section_has_choices_that_know_their_names():
    for section in SECTIONS:
        known = choices(section)
        assert known
        for name, cls in known.items():
            assert issubclass(cls, Choice)
            assert (cls.section, cls.name) == (section, name)
            assert choice(section, name) == cls()


@pytest.mark.fault
def test_an_unknown_name_is_refused_with_the_most_similar_one_and_how_to_register_others():
    with pytest.raises(InputError) as caught:
        choice("objective", "elbow")
    message = str(caught.value)
    assert message.startswith("objective='elbow' must be one of ")
    assert "or one that a module registers, which `vae-jax --import MODULE` imports; did you mean 'elbo'?" in message


@pytest.mark.fault
def test_a_name_or_section_that_cannot_be_used_is_refused():
    make()
    with pytest.raises(InputError, match=r"^estimator=pathwise is already the name of vae_jax\.inference\.estim"):
        make(name="pathwise")
    assert choices("estimator")["pathwise"].__module__ == "vae_jax.inference.estimators"
    with pytest.raises(InputError, match=r"^section='objectiv' must be one of .*; did you mean 'objective'\?$"):
        register("objectiv", "mine")


def test_the_same_class_can_be_registered_again():
    first, second = make(), make()  # as after importlib.reload
    assert choices("estimator")["mine"] is second is not first


@pytest.mark.fault
@pytest.mark.parametrize(
    ("bases", "fields", "message"),
    [
        ((), {"rate": setting(1, "A rate.")}, "must be a frozen dataclass derived from the base of its section"),
        ((Choice,), {"rate": dataclasses.field(default=1)}, "field Mine.rate has no rule"),
        ((Choice,), {"name": setting("x", "A name.")}, "Mine.name is set by `register`; rename the setting"),
    ],
)
def test_a_class_that_cannot_be_a_choice_is_refused(bases, fields, message):
    declared = [(name, type(field.default), field) for name, field in fields.items()]
    cls = dataclasses.make_dataclass("Mine", declared, bases=bases, frozen=True)
    with pytest.raises(TypeError) as caught:
        register("prior", "mine")(cls)
    assert message in str(caught.value)
    assert "mine" not in choices("prior")


def test_a_class_without_the_decorator_of_dataclasses_is_refused():
    class Mine(type(choice("estimator", "pathwise"))):
        rate: float = 0.5

    with pytest.raises(TypeError, match="must be a frozen dataclass"):
        register("estimator", "mine")(Mine)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("section", "name", "fields", "message"),
    [
        ("prior", "mixture", {"component": 3},
         "prior.component is not a setting of prior=mixture; did you mean 'prior.components'?"),
        ("objective", "elbo", {"beta": "2"}, "objective.beta='2' must be a number"),
        ("prior", "mixture", {"components": 0}, "prior.components=0 must be greater than 0"),
        ("network", "mlp", {"hidden": [16, 0]}, "network.hidden=(16, 0) must be numbers greater than 0"),
    ],
)  # fmt: skip
def test_a_setting_of_a_choice_that_cannot_be_used_is_refused(section, name, fields, message):
    with pytest.raises(InputError) as caught:
        choice(section, name, **fields)
    assert str(caught.value) == message


def test_a_list_becomes_a_tuple_and_an_array_is_not_checked():
    assert choice("network", "mlp", hidden=[16, 8]).hidden == (16, 8)
    jax.make_jaxpr(lambda beta: choice("objective", "elbo", beta=beta).beta * 1.0)(2.0)


def test_importing_the_config_imports_no_choices_and_looking_them_up_starts_no_backend():
    """`vae-jax --help` must not import JAX, and several processes connect after the flags are parsed."""
    script = """
import sys
from vae_jax.config import PRESETS, SECTIONS, choices, register
list(PRESETS)
assert not {"jax", "numpy"} & set(sys.modules)
for section in SECTIONS:
    assert choices(section)
PRESETS["digits"]
assert not {"orbax", "matplotlib", "sklearn", "tensorflow_datasets"} & set(sys.modules)
from jax._src import xla_bridge
print(xla_bridge.backends_are_initialized())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
