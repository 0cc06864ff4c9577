"""The matrix products of a training step on a CPU, timed one by one, and the effect of options of the XLA compiler.

    vae-jax data prepare mnist
    python experiments/benchmarks/compiler.py

The model is that of the preset `mnist-400`: 784-400-20 and its mirror, batches of 128.

Products: each product of the step, with the shapes that `jax.make_jaxpr` shows, runs `--repeats` times in a separate
loop, on matrices of ones. The table shows microseconds of wall time (median over the rounds) and the rate. The sum over
the products is the time of a step that consists of products only.

Options: the program that `vae-jax train` runs, compiled with each of several XLA options in addition to
`Placement.compiler_options`. All programs live in one process. In each round, each program makes `--steps` steps in one
dispatch, in a random order. The ratio is the time of a program divided by that of the first one in the same round; the
table shows the median. An option that this version of XLA lacks is omitted.

Prints two tables and, on the last line, JSON.

Results of 2026-11-25 (two cores of an AMD EPYC with AVX-512, no other load, Python 3.11.7, jax 0.10.2): the fourteen
products take 1.33 ms, at 317 GFLOP/s; the step 1.54 ms. Ratios: XNNPACK 1.00, oneDNN 1.02, oneDNN's custom calls 0.99,
dots fused for oneDNN 0.99, for XNNPACK 1.00, for YNNPACK 1.05, concurrent schedule 0.98, fusion emitters 1.00, fast
math 1.00, flush to zero 0.99, inexact dots 0.99, one thread 1.00 (XLA ignores this option), half vectors 1.05. All
rounds had the same order in that run.
On two cores of an Intel Xeon, 2026-11-27 (`--rounds 15`): the products take 2.68 ms, at 157 GFLOP/s, the step 3.39 ms.
Ratios from 0.97 (dots fused for oneDNN or YNNPACK) to 1.03 (dots by Eigen only, half vectors); fusion emitters, which
are XLA's default, so that the option changes nothing, 0.98. In a later, slower run there (3.49 and 4.15 ms): the older
emitters 1.21; all others from 0.99 to 1.04.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vae_jax.bench import Product, matrix_products
from vae_jax.config import PRESETS, override
from vae_jax.errors import VaeJaxError
from vae_jax.runs import Experiment, build_experiment, build_program, build_step, place_initial_state, state_shapes
from vae_jax.runtime import Placement, host, sharding

OPTIONS: dict[str, dict[str, Any]] = {
    "unchanged": {},
    "XNNPACK": {"xla_cpu_use_xnnpack": True},
    "oneDNN": {"xla_cpu_use_onednn": True},
    "oneDNN's custom calls": {"xla_cpu_experimental_onednn_custom_call": True},
    "dots fused for oneDNN": {"xla_cpu_experimental_onednn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"},
    "dots fused for XNNPACK": {"xla_cpu_experimental_xnn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"},
    "dots fused for YNNPACK": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"},
    "concurrent schedule": {"xla_cpu_enable_concurrency_optimized_scheduler": True},
    "fusion emitters": {"xla_cpu_use_fusion_emitters": True},
    "older emitters": {"xla_cpu_use_fusion_emitters": False},
    "fast math": {"xla_cpu_enable_fast_math": True},
    "flush to zero": {"xla_cpu_ftz": True},
    "inexact dots": {"xla_cpu_strict_dot_conv_math": False},
    "one thread": {"xla_cpu_multi_thread_eigen": False},
    "dots by Eigen only": {"xla_cpu_experimental_ynn_fusion_type": ""},
    "half vectors": {"xla_cpu_prefer_vector_width": 256},
}


def products_of(experiment: Experiment, placement: Placement) -> list[Product]:
    """Return the products of two matrices in the step, in the order of the program."""
    size, spec = experiment.training.batch_size, experiment.training_data.spec
    batch = {name: jax.ShapeDtypeStruct((size, *s.shape), s.dtype) for name, s in spec.items()}
    state, step = state_shapes(experiment, placement), build_step(experiment, placement)
    products = matrix_products(jax.make_jaxpr(step)(state, batch))
    return [product for product in products if product.equation.primitive.name == "dot_general"]


def product_loop(product: Product, repeats: int, options: dict[str, Any] | None) -> Callable[[], Any]:
    """Compile a loop of `repeats` of one product, each dependent on the one before, and run it once."""
    left, right = (jnp.ones(variable.aval.shape, variable.aval.dtype) for variable in product.equation.invars)
    settings = {name: product.equation.params[name] for name in ("dimension_numbers", "precision")}

    def body(_: Any, carried: jax.Array) -> jax.Array:
        return jax.lax.dot_general(left + carried, right, **settings).reshape(-1)[0] * 0.0

    loop = jax.jit(lambda: jax.lax.fori_loop(0, repeats, body, jnp.zeros((), left.dtype)), compiler_options=options)
    jax.block_until_ready(loop())
    return loop


def programs(
    experiment: Experiment, placement: Placement, steps: int
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Compile the training with each option and run it once.

    Returns:
      ({option: a function that makes one dispatch}, {omitted option: the compiler's error}).
    """
    compiled, omitted = {}, {}
    data = jax.device_put(experiment.training_data.read_all(), placement.replicated)
    for name, options in OPTIONS.items():
        combined = (placement.compiler_options or {}) | options
        program = jax.jit(build_program(experiment, placement, placement.place_batch), compiler_options=combined)
        state = place_initial_state(experiment, placement)
        try:
            jax.block_until_ready(program(state, data, steps))
        except jax.errors.JaxRuntimeError as error:
            omitted[name] = str(error).splitlines()[0]
            continue
        compiled[name] = lambda program=program, state=state: program(state, data, steps)
    return compiled, omitted


def seconds(call: Callable[[], Any]) -> float:
    """Return the wall time of one call until its arrays are ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, and print two tables and, on the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="mnist-400")
    parser.add_argument("--repeats", type=int, default=50, help="number of runs of a product in one call")
    parser.add_argument("--steps", type=int, default=100, help="steps of a program in one dispatch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small digits and one round of three steps")
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    arguments = parser.parse_args(argv)
    if min(arguments.repeats, arguments.steps, arguments.rounds) < 1:
        parser.error("--repeats, --steps and --rounds must be 1 or more")
    preset, repeats = arguments.preset, arguments.repeats
    steps, rounds = arguments.steps, arguments.rounds
    settings: dict[str, Any] = {"data__data_dir": arguments.data_dir, "mesh__data": 1, "train__evaluate_every": 0}
    if arguments.quick:
        preset, repeats, steps, rounds = "digits", 2, 3, 1
        settings |= {"network__hidden": (8,), "model__latent_dim": 2}
    try:
        config = override(PRESETS[preset], **settings, train__log_every=steps, train__save_every=steps)
        experiment = build_experiment(config)
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    placement = Placement(sharding.make_mesh(1))
    options = placement.compiler_options
    loops = [(product, product_loop(product, repeats, options)) for product in products_of(experiment, placement)]
    compiled, omitted = programs(experiment, placement, steps)
    loop_seconds: list[list[float]] = [[] for _ in loops]
    program_seconds: dict[str, list[float]] = {name: [] for name in compiled}
    generator = random.Random(0)
    for i in range(rounds):
        for times, (_, loop) in zip(loop_seconds, loops, strict=True):
            times.append(seconds(loop) / repeats)
        for name in generator.sample(list(compiled), len(compiled)):  # the first program of a round may be slower
            program_seconds[name].append(seconds(compiled[name]) / steps)
        print(f"round {i + 1} of {rounds}", file=sys.stderr)

    products = []
    for times, (product, _) in zip(loop_seconds, loops, strict=True):
        shapes = " x ".join(str(list(variable.aval.shape)) for variable in product.equation.invars)
        products.append({"shapes": shapes, "seconds": statistics.median(times), "operations": product.flops})
    first = next(iter(program_seconds.values()))
    rows = [
        {
            "option": name,
            "seconds_per_step": statistics.median(times),
            "ratio": statistics.median(time / base for time, base in zip(times, first, strict=True)),
        }
        for name, times in program_seconds.items()
    ]
    for product in products:
        rate = product["operations"] / product["seconds"] / 1e9
        print(f"{product['shapes']:<28}{1e6 * product['seconds']:8.1f} us{rate:8.0f} GFLOP/s")
    total, operations = (sum(product[name] for product in products) for name in ("seconds", "operations"))
    print(f"{'all products of a step':<28}{1e6 * total:8.1f} us{operations / total / 1e9:8.0f} GFLOP/s\n")
    for row in rows:
        print(f"{row['option']:<28}{1e3 * row['seconds_per_step']:8.3f} ms a step{row['ratio']:8.3f}")
    for name, reason in omitted.items():
        print(f"{name:<28}omitted ({reason})")
    about = {"device": jax.devices()[0].device_kind, "cores": host.cores(), "jax": jax.__version__}
    result = about | {"preset": preset, "rounds": rounds, "products": products, "options": rows, "omitted": omitted}
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
