"""State that is not trained by gradient in the passes of a loss, and models that need random numbers of Flax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from averaging_model import SIZE, AveragingModel
from jitted import init, log_likelihood, loss_and_statistics, negative_bound, sample_terms

from vae_jax.distributions import Normal, Variables
from vae_jax.errors import InputError
from vae_jax.inference import bound, elbos, importance
from vae_jax.inference.estimators import doubly_reparameterized, pathwise, sticking_the_landing
from vae_jax.inference.terms import Pair, log_weights
from vae_jax.models.build import init_params

ESTIMATORS = (pathwise, sticking_the_landing, doubly_reparameterized)
VECTORS = jnp.asarray(np.random.default_rng(0).normal(size=(8, SIZE)) + 1, jnp.float32)


def averaging(**fields):
    """Return (model, variables) with state that is not trained by gradient."""
    model = AveragingModel(**fields)
    variables = init(model, jax.random.key(0), VECTORS)
    return model, Variables(variables.pop("params"), variables)


class TestStatistics:
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize(
        "objective", [importance.iwae, Pair(importance.iwae, elbos.sampled_elbo)], ids=["iwae", "pair"]
    )
    def test_estimators_and_pairs_have_equal_losses_and_statistics(self, objective, estimator):
        model, variables = averaging(in_decoder=True)
        settings = {"model": model, "num_samples": 3}
        plain = loss_and_statistics(variables, jax.random.key(1), VECTORS, objective=importance.iwae, **settings)
        settings |= {"objective": objective, "estimator": estimator}
        found = loss_and_statistics(variables, jax.random.key(1), VECTORS, **settings)
        names = ("bound", "reconstruction")  # the KL is estimated after two of the estimators
        compared = [(loss, [metrics[n] for n in names], statistics) for loss, metrics, statistics in (found, plain)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *compared)
        _, _, statistics = found
        np.testing.assert_allclose(statistics["statistics"]["mean"], 0.1 * VECTORS.mean(axis=0), rtol=1e-5)
        assert int(statistics["statistics"]["updates"]) == 1
        assert set(statistics["batch_stats"]) == {"norm", "output_norm"}
        assert np.all(statistics["batch_stats"]["output_norm"]["mean"] != 0)

    def test_the_loss_of_a_user_has_the_values_of_a_training_step(self):
        model, variables = averaging()
        settings = {"model": model, "objective": elbos.elbo}
        loss, metrics = negative_bound(variables, jax.random.key(1), VECTORS, **settings)
        expected = loss_and_statistics(variables, jax.random.key(1), VECTORS, **settings)
        assert (loss, metrics) == expected[:2]

    def test_terms_and_likelihoods_use_the_statistics_that_they_receive(self):
        """An example has the same values in any batch then."""
        model, variables = averaging(in_decoder=True)
        keys = jax.random.split(jax.random.key(1), 8)
        for function in (
            lambda keys, x: log_weights(sample_terms(variables, keys, x, model=model))[0],
            lambda keys, x: log_likelihood(variables, keys, x, model=model, num_samples=3, chunk=2)[0],
        ):
            np.testing.assert_allclose(function(keys[:2], VECTORS[:2]), function(keys, VECTORS)[:2], rtol=1e-5)
        assert sample_terms(variables, keys, VECTORS, model=model).statistics is None

    def test_statistics_have_no_gradient(self):
        model, variables = averaging()

        def mean_of_statistics(params):
            settings = {"model": model, "objective": elbos.elbo}
            new = loss_and_statistics(variables._replace(params=params), jax.random.key(1), VECTORS, **settings)[2]
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(new) if jnp.issubdtype(leaf.dtype, jnp.floating))

        assert all(not leaf.any() for leaf in jax.tree.leaves(jax.grad(mean_of_statistics)(variables.params)))

    def test_an_estimator_that_drops_the_statistics_is_refused(self):
        model, variables = averaging()

        def dropping(passes, *, objective):
            return passes.sampled()._replace(statistics=None)

        with pytest.raises(
            ValueError, match=r"^estimator returned terms without `statistics`; keep those of the terms"
        ):
            negative_bound(variables, jax.random.key(1), VECTORS, model=model, objective=elbos.elbo, estimator=dropping)


@pytest.mark.fault
@pytest.mark.parametrize(
    "call",
    [
        lambda *a, **s: negative_bound(*a, objective=elbos.elbo, **s),
        sample_terms,
        lambda *a, **s: log_likelihood(*a, num_samples=2, chunk=1, **s),
    ],
)
def test_a_model_that_needs_random_numbers_of_flax_is_refused_in_one_sentence(call):
    model, variables = averaging(dropout=0.5)
    with pytest.raises(InputError) as caught:
        call(variables, jax.random.key(0), VECTORS, model=model)
    assert str(caught.value) == (
        'model needs a random number generator of Flax: drop needs PRNG for "dropout"; draw its noise in the '
        "preprocessing, which has a key for each example, and read it from the batch"
    )


class AlwaysUpdated(AveragingModel):
    """A model whose normalization uses the statistics of the batch also in an evaluation."""

    def encode(self, batch):
        return Normal(*jnp.split(self.code(self.norm(batch["x"], use_running_average=False)), 2, axis=-1))


@pytest.mark.fault
def test_statistics_that_are_missing_or_change_in_an_evaluation_are_refused_in_one_sentence():
    model, variables = averaging()
    arguments = variables.params, jax.random.key(0), {"x": VECTORS}
    with pytest.raises(InputError, match=r"^model needs variables that are no parameters: .*; pass `Variables\(params"):
        bound.negative_bound(*arguments, model=model, objective=elbos.elbo)
    with pytest.raises(InputError, match=r"^model changes variables outside of training: .*is_mutable_collection"):
        init_params(AlwaysUpdated(), jax.random.key(0), {"x": VECTORS})
