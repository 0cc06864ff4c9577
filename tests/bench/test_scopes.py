"""Named scopes of a training step, and their time in a trace."""

import re

import numpy as np

from vae_jax.bench import plan, scopes


def test_the_compiled_program_has_the_scopes_of_a_step(make_experiment):
    experiment = make_experiment(preprocess="dynamic-binarization", likelihood="bernoulli")
    text = plan.trace_program(*experiment).lower().compile().as_text()
    names = set(scopes.operation_scopes(text).values())
    assert {"preprocess", "encoder", "sampling", "decoder", "likelihood", "optimizer"} <= names
    assert {"encoder, backward", "decoder, backward"} <= names
    products = re.findall(r' dot\(.*op_name="([^"]*)"', text)
    for scope in ("encoder", "decoder"):  # in the forward and the backward pass
        assert any(f"jvp({scope})" in name and "transpose" not in name for name in products)
        assert any(f"transpose(jvp({scope}))" in name for name in products)


def test_the_time_of_a_trace_is_summed_by_scope():
    text = """
  %fusion.1 = f32[8,2]{1,0} fusion(%p), kind=kLoop, metadata={op_name="jit(f)/while/body/jvp(encoder)/tanh"}
  ROOT dot.2 = (f32[8]{0}, f32[2]{0}) fusion(%p), metadata={op_type="dot" op_name="a/transpose(jvp(encoder))/decoder/b"}
  %all-reduce.3 = f32[8]{0} all-reduce(%p), to_apply=%add, metadata={op_name="jit(f)/optimizer/add"}
  %loop.4 = (s32[]) while(%t), body=%b, metadata={op_name="jit(f)/optimizer/while"}
  %kl.5 = f32[] add(%a, %b), metadata={op_name="jit(f)/loss_and_gradient/jvp()/add"}
  %draw.7 = f32[8] add(%a, %b), metadata={op_name="jit(f)/jvp(decoder)/VAE.decode/sampling/add"}
  %rest.6 = f32[] add(%a, %b), metadata={op_name="jit(f)/transpose"}
"""
    operations = scopes.operation_scopes(text)
    assert operations == {
        "fusion.1": "encoder", "dot.2": "decoder, backward", "draw.7": "sampling", "all-reduce.3": "collectives",
        "kl.5": "loss_and_gradient", "rest.6": "other",
    }  # fmt: skip
    event = lambda operation, microseconds: {"args": {"hlo_op": operation}, "dur": microseconds}  # noqa: E731
    events = [event("fusion.1", 2), event("dot.2", 5), event("fusion.1", 1), event("loop.4", 9), {"dur": 7}]
    seconds = scopes.seconds_by_scope(events, operations)
    assert list(seconds) == ["decoder, backward", "encoder"]
    np.testing.assert_allclose(list(seconds.values()), [5e-6, 3e-6])
