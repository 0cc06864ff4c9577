"""Examples of commands, and what each preset is, with which the help begins."""

EXAMPLES = (
    ("vae-jax train", "8x8 digits, half a minute, no download"),
    ("vae-jax train --data.name ~/photos --preset conv-8bit", "a folder of images"),
    ("vae-jax evaluate runs/digits --num-samples 5000", "a finished run"),
)
PRESETS = {
    "digits": "8x8 digits of scikit-learn, the default",
    "digits-conditional": "the same given their labels: samples of each class",
    "digits-m2": "the same, 100 of them with a label: a classifier",
    "digits-sdgm": "the same with an auxiliary variable",
    "pca": "a linear autoencoder with tied weights: PCA",
    "autoencoder": "MNIST, 784-1000-500-250-30 and its mirror",
    "noisy-autoencoder": "the same with noise on the code",
    "vae": "the same with a Gaussian posterior and the KL",
    "mnist": "binarized MNIST, an MLP 784-200-200-50",
    "mnist-conditional": "the same given their labels",
    "mnist-m2": "the same, 100 of them with a label: a classifier",
    "mnist-sdgm": "the same with an auxiliary variable",
    "mnist-400": "binarized MNIST, 784-400-20 as in PyTorch's example",
    "mnist-conv": "binarized MNIST, a residual convolutional network",
    "mnist-flow": "the same with more channels and a normalizing flow as prior",
    "mnist-2d": "binarized MNIST, two latents and their manifold",
    "conv-8bit": "8-bit images of any size, grey or colour",
    "mnist-ladder": "binarized MNIST, a convolutional network with two stochastic layers",
    "mnist-ladder-mlp": "binarized MNIST, five stochastic layers of vectors",
    "digits-fsq": "8x8 digits by 8 integer codes of 64",
    "mnist-fsq": "binarized MNIST by 16 integer codes, rounded numbers",
    "mnist-vq": "binarized MNIST by 16 integer codes, a learned codebook",
    "image-vq": "8-bit images of any size, a code for each 4x4 pixels",
    "image-ladder": "8-bit images of 32x32, a deep hierarchy",
}


def examples_text() -> str:
    """Return three examples with what each does, a line each."""
    width = max(len(command) for command, _ in EXAMPLES) + 2
    return "\n".join(("Examples:", *(f"  {command:<{width}}{what}" for command, what in EXAMPLES)))


def presets_text() -> str:
    """Return what each preset is, a line each."""
    width = max(map(len, PRESETS)) + 2
    return "\n".join(("Presets:", *(f"  {name:<{width}}{what}" for name, what in PRESETS.items())))
