"""Presets: complete configs by name, from which a run can start."""

from dataclasses import replace

from vae_jax.config.schema import (
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
)

_DIGITS = Config(
    model=ModelConfig(hidden=(256, 128), latent_dim=6),
    optimizer=OptimizerConfig(learning_rate=2e-3),
    train=TrainConfig(steps=4000, evaluate_every=500),
    evaluation=EvaluationConfig(num_samples=1000),
)
_MNIST = Config(  # 100 epochs of 58,800 images; 1,200 are held out
    data=DataConfig(name="mnist", holdout=0.02),
    optimizer=OptimizerConfig(learning_rate=4e-3),
    train=TrainConfig(steps=45_900, log_every=459, evaluate_every=4590, save_every=4590),
)

# The presets pca, autoencoder, noisy-autoencoder and vae go from PCA to the VAE in four steps, each with a code of 30
# numbers for 784 pixels. Autoencoder, noisy autoencoder and VAE differ in the posterior, the objective, the training
# time (40, 10 and 10 epochs), and the weight decay, which is larger for the autoencoder. Their outputs are logistic,
# with the cross entropy of intensities (Hinton & Salakhutdinov, Science 2006). The outputs of PCA are linear.
_AUTOENCODER = Config(
    data=DataConfig(name="mnist", holdout=0.02, binarization="none"),
    model=ModelConfig(hidden=(1000, 500, 250), latent_dim=30, activation="gelu", posterior="deterministic"),
    objective=ObjectiveConfig(name="reconstruction"),
    optimizer=OptimizerConfig(name="adamw", learning_rate=2e-3, schedule="one-cycle", weight_decay=1e-3),
    train=TrainConfig(steps=18_360, log_every=459, evaluate_every=4590, save_every=4590),  # 40 epochs
    evaluation=EvaluationConfig(num_samples=200),
)

PRESETS: dict[str, Config] = {
    "digits": _DIGITS,
    "pca": replace(
        _AUTOENCODER,
        model=ModelConfig(hidden=(), latent_dim=30, activation="identity", posterior="deterministic",
                          likelihood="gaussian", tied=True),
        optimizer=OptimizerConfig(learning_rate=4e-3),
        train=replace(_AUTOENCODER.train, steps=9180),
    ),
    "autoencoder": replace(  # with the weight decay of the others it overfits: a test error of 2.85 instead of 2.61
        _AUTOENCODER, optimizer=replace(_AUTOENCODER.optimizer, weight_decay=0.1)
    ),
    "noisy-autoencoder": replace(
        _AUTOENCODER,
        model=replace(_AUTOENCODER.model, posterior="fixed-noise"),
        train=replace(_AUTOENCODER.train, steps=4590),
    ),
    "vae": replace(
        _AUTOENCODER,
        model=replace(_AUTOENCODER.model, posterior="gaussian"),
        objective=ObjectiveConfig(),
        train=replace(_AUTOENCODER.train, steps=4590),
    ),
    "mnist": replace(_MNIST, objective=ObjectiveConfig(name="sampled-elbo", estimator="sticking-the-landing")),
    "mnist-400": replace(
        _MNIST,
        model=ModelConfig(hidden=(400,), latent_dim=20, activation="relu"),
        optimizer=OptimizerConfig(schedule="constant"),
    ),
    "mnist-conv": replace(  # 28 epochs
        _MNIST,
        model=ModelConfig(network="residual", hidden=(16, 32), latent_dim=50, activation="gelu"),
        # Without the warm-up the posterior collapses in the first steps.
        objective=ObjectiveConfig(name="sampled-elbo", estimator="sticking-the-landing", warmup_steps=9180),
        optimizer=OptimizerConfig(learning_rate=1.5e-3),
        train=TrainConfig(steps=51_450, batch_size=32, log_every=147, evaluate_every=5145, save_every=1029),
        evaluation=EvaluationConfig(num_samples=500),
    ),
    "mnist-2d": replace(_MNIST, model=ModelConfig(hidden=(400, 200), latent_dim=2)),
    "conv-8bit": Config(
        data=DataConfig(binarization="none"),
        model=ModelConfig(network="conv", hidden=(32, 64), latent_dim=64, activation="gelu",
                          likelihood="logistic-mixture"),
        train=TrainConfig(steps=2000),
        evaluation=EvaluationConfig(num_samples=100, chunk=10),
    ),
}  # fmt: skip
