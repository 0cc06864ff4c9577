"""Static cost analysis: operations and collectives."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from vae_jax import kernels
from vae_jax.bench import cost_analysis, plan
from vae_jax.runs import state_shapes, with_training


def compiled_text(*experiment_and_placement):
    return plan.trace_program(*experiment_and_placement).lower().compile().as_text()


def test_convolutions_scans_and_branches_are_counted():
    x, kernel = jnp.zeros((2, 5, 6, 3)), jnp.zeros((3, 3, 3, 7))

    def count(function, *arguments):
        return cost_analysis.total_flops(cost_analysis.matrix_products(jax.make_jaxpr(function)(*arguments)))

    once = 2 * (2 * 5 * 6 * 7) * (3 * 3 * 3)
    assert count(kernels.convolve, x, kernel) == once
    scan = lambda x, k: lax.scan(lambda c, _: (c, kernels.convolve(c, k)), x, None, length=4)  # noqa: E731
    assert count(scan, x, kernel) == 4 * once
    a = jnp.zeros((3, 4))
    assert count(lambda p: lax.cond(p, lambda: a @ a.T @ a, lambda: a), True) == 2 * (3 * 4 * 3 + 3 * 3 * 4)
    loss = lambda k: jnp.sum(kernels.convolve(x, k) ** 2)  # noqa: E731
    assert count(jax.value_and_grad(loss), kernel) == 2 * once  # the image needs no gradient


@pytest.mark.usefixtures("static_count")
def test_collectives_are_counted_on_eight_devices(make_experiment):
    """Eight devices sum gradients and metrics, once for each microbatch."""
    experiment, placement = make_experiment(8, train__batch_size=64)
    gradients = cost_analysis.tree_bytes(state_shapes(experiment, placement).params)
    (step,) = cost_analysis.collectives(compiled_text(experiment, placement))
    assert step.kind == "all-reduce"
    assert step.count >= 1
    assert gradients < step.bytes < gradients + 64
    (split,) = cost_analysis.collectives(compiled_text(with_training(experiment, microbatches=4), placement))
    assert 4 * gradients < split.bytes < 4 * (gradients + 64)


def test_the_main_dtype_is_that_of_most_operations():
    def products(size):
        low, high = jnp.ones((size, size), jnp.bfloat16), jnp.ones((8, 8))
        return cost_analysis.matrix_products(jax.make_jaxpr(lambda a, b: (a @ a, b @ b))(low, high))

    assert [cost_analysis.main_dtype(products(size)) for size in (4, 16)] == ["float32", "bfloat16"]
    assert cost_analysis.main_dtype([]) == "float32"


def test_rematerialization_is_found_inside_of_loops():
    def loss(x, wrap):
        return lax.scan(lambda c, _: (wrap(jnp.sin)(c), None), x, None, length=3)[0]

    for wrap, found in ((lambda f: f, False), (jax.checkpoint, True)):
        jaxpr = jax.make_jaxpr(jax.jit(jax.grad(lambda x, wrap=wrap: loss(x, wrap))))(1.0)
        assert cost_analysis.rematerializes(jaxpr) is found


HLO = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}
%inner (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %one = f32[8,2]{1,0} all-reduce(%p), to_apply=%add
}
%outer (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %loop = (s32[], f32[8]) while(%t), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"5"}}
  %two = (bf16[4]{0}, /*index=1*/pred[6]{0}) all-reduce(%x, %y), to_apply=%add
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]) while(%t), condition=%c, body=%outer
  %start = (f32[3]{0}, f32[24]{0}) all-gather-start(%z), dimensions={0}
  %done = f32[24]{0} all-gather-done(%start)
}
"""


def test_collectives_in_loops_and_asynchronous_ones():
    expected = [
        cost_analysis.Collective("all-gather", 1, 96),
        cost_analysis.Collective("all-reduce", 6, 5 * 64 + 8 + 6),
    ]
    assert cost_analysis.collectives(HLO) == expected
    # The outermost loop is the loop over steps. It counts once, also if its number of iterations is known.
    known = 'body=%outer, backend_config={"known_trip_count":{"n":"7"}}'
    assert cost_analysis.collectives(HLO.replace("body=%outer", known)) == expected
