"""What holds a training step back on a CPU: its matrix products one by one, and what the compiler's options give.

    vae-jax data prepare mnist
    python experiments/benchmarks/compiler.py

The model is the preset `mnist-400`: 784-400-20 and its mirror, batches of 128.

Products: each product of the step, in the shapes that `jax.make_jaxpr` shows, `--repeats` times in a loop of its own,
on matrices of ones; microseconds by the clock (median over the rounds) and rate. Their sum is what a step would take if
it were nothing but its products.

Options: the program that `vae-jax train` runs, compiled with each of XLA's options that might matter, beside
`sharding.compiler_options`. All live in one process; in each round each makes `--steps` steps in one dispatch, in an
order drawn anew. The ratio is a program's time over that of the first, round by round; the median. An option that this
XLA does not have is left out.

Prints two tables, and last one line of JSON.

Numbers of 2026-11-25 (two cores of an AMD EPYC with AVX-512, nothing else at work, Python 3.11.7, jax 0.10.2): the
fourteen products take 1.33 ms, at 317 GFLOP/s; the step 1.54 ms. Ratios: XNNPACK 1.00, oneDNN 1.02, oneDNN's custom
calls 0.99, dots fused for oneDNN 0.99, for XNNPACK 1.00, for YNNPACK 1.05, concurrent schedule 0.98, fusion emitters
1.00, fast math 1.00, flush to zero 0.99, inexact dots 0.99, one thread 1.00 (it is not obeyed), half vectors 1.05;
each round in the same order then.
On two cores of an Intel Xeon, 2026-11-27 (`--rounds 15`): the products take 2.68 ms, at 157 GFLOP/s, the step 3.39.
Ratios from 0.97 (dots fused for oneDNN or YNNPACK) to 1.03 (dots by Eigen alone, half vectors); fusion emitters, which
are XLA's default and change nothing, 0.98. In a later run there, a slower one (3.49 and 4.15 ms): the older emitters
1.21; all others from 0.99 to 1.04.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vae_jax.bench import Product, matrix_products
from vae_jax.config import PRESETS, override
from vae_jax.data import describe_images, load_images
from vae_jax.errors import VaeJaxError
from vae_jax.runs import Run, build_program, build_step
from vae_jax.runtime import host, sharding

OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
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
    "dots by Eigen alone": {"xla_cpu_experimental_ynn_fusion_type": ""},
    "half vectors": {"xla_cpu_prefer_vector_width": 256},
}


def products_of(run: Run) -> list[Product]:
    """The products of two matrices of the step, in the order of the program."""
    state = jax.eval_shape(run.initial_state, run.key)
    batch = jax.ShapeDtypeStruct((run.config.train.batch_size, *run.image_shape), jnp.uint8)
    products = matrix_products(jax.make_jaxpr(build_step(run))(state, batch))
    return [product for product in products if product.equation.primitive.name == "dot_general"]


def alone(product: Product, repeats: int, options: dict[str, Any] | None) -> Callable[[], Any]:
    """`repeats` of one product, each waiting for the one before, compiled and once run."""
    left, right = (jnp.ones(variable.aval.shape, variable.aval.dtype) for variable in product.equation.invars)
    how = {name: product.equation.params[name] for name in ("dimension_numbers", "precision")}

    def again(_: Any, carried: jax.Array) -> jax.Array:
        return jax.lax.dot_general(left + carried, right, **how).reshape(-1)[0] * 0.0

    loop = jax.jit(lambda: jax.lax.fori_loop(0, repeats, again, jnp.zeros((), left.dtype)), compiler_options=options)
    jax.block_until_ready(loop())
    return loop


def programs(run: Run, images: Any, steps: int) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """({option: a dispatch of the run's training compiled with it, once run}, {option: why it cannot be had})."""
    found, left_out = {}, {}
    for name, options in OPTIONS.items():
        given = (sharding.compiler_options(run.mesh) or {}) | options
        program = jax.jit(build_program(run, sharding.place_batch(run.mesh)), compiler_options=given)
        state = jax.jit(run.initial_state)(run.key)
        try:
            jax.block_until_ready(program(state, images, steps))
        except jax.errors.JaxRuntimeError as error:
            left_out[name] = str(error).splitlines()[0]
            continue
        found[name] = lambda program=program, state=state: program(state, images, steps)
    return found, left_out


def seconds(call: Callable[[], Any]) -> float:
    """Of one call, waited for."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints two tables, and last one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="mnist-400")
    parser.add_argument("--repeats", type=int, default=50, help="of a product, in one call")
    parser.add_argument("--steps", type=int, default=100, help="in a dispatch of a program")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small digits, one round of three steps")
    parser.add_argument("--data-dir", help="where prepared data sets are")
    asked = parser.parse_args(argv)
    if min(asked.repeats, asked.steps, asked.rounds) < 1:
        parser.error("--repeats, --steps and --rounds must be 1 or more")
    preset, repeats, steps, rounds = asked.preset, asked.repeats, asked.steps, asked.rounds
    settings: dict[str, Any] = {"data__data_dir": asked.data_dir, "mesh__data": 1, "train__evaluate_every": 0}
    if asked.quick:
        preset, repeats, steps, rounds = "digits", 2, 3, 1
        settings |= {"model__hidden": (8,), "model__latent_dim": 2}
    try:
        config = override(PRESETS[preset], **settings, train__log_every=steps, train__save_every=steps)
        images = load_images(config, "train")
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    run = Run(config, describe_images(images), Path(), sharding.make_mesh(1))
    options = sharding.compiler_options(run.mesh)
    dots = [(product, alone(product, repeats, options)) for product in products_of(run)]
    compiled, left_out = programs(run, jax.device_put(images, sharding.replicated(run.mesh)), steps)
    of_dots: list[list[float]] = [[] for _ in dots]
    of_programs: dict[str, list[float]] = {name: [] for name in compiled}
    order = random.Random(0)
    for i in range(rounds):
        for times, (_, loop) in zip(of_dots, dots, strict=True):
            times.append(seconds(loop) / repeats)
        for name in order.sample(list(compiled), len(compiled)):  # what comes first of a round may be slower for it
            of_programs[name].append(seconds(compiled[name]) / steps)
        print(f"round {i + 1} of {rounds}", file=sys.stderr)

    products = []
    for times, (product, _) in zip(of_dots, dots, strict=True):
        shapes = " x ".join(str(list(variable.aval.shape)) for variable in product.equation.invars)
        products.append({"shapes": shapes, "seconds": statistics.median(times), "operations": product.flops})
    first = next(iter(of_programs.values()))
    rows = [
        {
            "option": name,
            "seconds_per_step": statistics.median(times),
            "ratio": statistics.median(own / base for own, base in zip(times, first, strict=True)),
        }
        for name, times in of_programs.items()
    ]
    for product in products:
        rate = product["operations"] / product["seconds"] / 1e9
        print(f"{product['shapes']:<28}{1e6 * product['seconds']:8.1f} us{rate:8.0f} GFLOP/s")
    total, operations = (sum(product[name] for product in products) for name in ("seconds", "operations"))
    print(f"{'all products of a step':<28}{1e6 * total:8.1f} us{operations / total / 1e9:8.0f} GFLOP/s\n")
    for row in rows:
        print(f"{row['option']:<28}{1e3 * row['seconds_per_step']:8.3f} ms a step{row['ratio']:8.3f}")
    for name, why in left_out.items():
        print(f"{name:<28}left out ({why})")
    about = {"device": jax.devices()[0].device_kind, "cores": host.cores(), "jax": jax.__version__}
    result = about | {"preset": preset, "rounds": rounds, "products": products, "options": rows, "left_out": left_out}
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
