"""The worker of counts.py: trains scvi-tools on the matrix of an .npz file, in an environment that has scvi-tools.

    pip install scvi-tools
    PYTHON experiments/benchmarks/scvi_counts.py COUNTS.npz --latent 5 --hidden 128 --epochs 60

Prints one line of JSON: the ELBO of the test examples in nats per example, the seconds of training, and the version.
"""

import argparse
import json
import time
from importlib.metadata import version
from typing import Any

import numpy as np


def main() -> dict[str, Any]:
    """Train and evaluate; return the numbers."""
    parser = argparse.ArgumentParser(description="Train scvi-tools on counts.")
    parser.add_argument("counts", help=".npz file with the arrays train and test, [N, D] each")
    for name in ("latent", "hidden", "epochs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    import anndata
    import scvi

    scvi.settings.seed = 0
    arrays = np.load(options.counts, allow_pickle=False)
    train, test = (anndata.AnnData(arrays[split].astype(np.float32)) for split in ("train", "test"))
    scvi.model.SCVI.setup_anndata(train)
    model = scvi.model.SCVI(
        train, n_latent=options.latent, n_hidden=options.hidden, n_layers=1, dropout_rate=0.0, gene_likelihood="nb"
    )
    start = time.perf_counter()
    model.train(
        max_epochs=options.epochs, batch_size=128, train_size=1.0, accelerator="cpu", enable_progress_bar=False,
        plan_kwargs={"lr": 2e-3, "n_epochs_kl_warmup": None, "n_steps_kl_warmup": None, "max_kl_weight": 1.0},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    elbo = float(model.get_elbo(test))
    return {"elbo": elbo, "seconds": seconds, "version": version("scvi-tools"), "torch": version("torch")}


if __name__ == "__main__":
    print(json.dumps(main()))
