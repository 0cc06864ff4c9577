"""The protocol of Table 1 of "Importance Weighted Autoencoders" (arXiv 1509.00519), and its published numbers.

The docstring of iwae_table1.py describes the protocol.
"""

from pathlib import Path
from typing import NamedTuple

from vae_jax.config import PRESETS, Config, override

LAYERS, SAMPLES = (1, 2), (1, 5, 50)
COLUMNS = {  # (objective, estimator)
    "vae": ("sampled-elbo", "pathwise"),
    "iwae": ("iwae", "pathwise"),
    "stl": ("sampled-elbo", "sticking-the-landing"),
    "dreg": ("iwae", "doubly-reparameterized"),
}
SAME_WITH_ONE_SAMPLE = {"iwae": "vae", "dreg": "stl"}
STAGES = 8

# arXiv 1509.00519, Table 1: NLL in nats, and active units of each layer, the layer next to the image first.
PUBLISHED = {
    (1, 1): {"vae": (86.76, "19"), "iwae": (86.76, "19")},
    (1, 5): {"vae": (86.47, "20"), "iwae": (85.54, "22")},
    (1, 50): {"vae": (86.35, "20"), "iwae": (84.78, "25")},
    (2, 1): {"vae": (85.33, "16+5"), "iwae": (85.33, "16+5")},
    (2, 5): {"vae": (85.01, "17+5"), "iwae": (83.89, "21+5")},
    (2, 50): {"vae": (84.78, "17+5"), "iwae": (82.90, "26+7")},
}
# github.com/nbip/IWAE, the same schedule: NLL in nats.
REPRODUCED = {
    (1, 1): {"vae": 86.35, "iwae": 86.35, "dreg": 86.08},
    (1, 5): {"vae": 86.10, "iwae": 85.18, "dreg": 84.90},
    (1, 50): {"vae": 86.06, "iwae": 84.59, "dreg": 84.32},
    (2, 1): {"vae": 84.83, "iwae": 84.83},
    (2, 5): {"vae": 84.08, "iwae": 83.48},
    (2, 50): {"vae": 83.89, "iwae": 82.82},
}


class Schedule(NamedTuple):
    """A training schedule: stage i of `STAGES` has 3^(i-1) times the steps of the first stage."""

    first_stage: int  # steps
    batch_size: int
    learning_rate: float  # in the first stage; a tenth of it in the last
    log_every: int
    save_every: int

    @property
    def steps(self) -> int:
        """The total number of steps."""
        return self.first_stage * (3**STAGES - 1) // 2

    @property
    def milestones(self) -> tuple[int, ...]:
        """The first step of each stage except the first stage."""
        return tuple(self.first_stage * (3**i - 1) // 2 for i in range(1, STAGES))


SCHEDULES = {
    "full": Schedule(3000, batch_size=20, learning_rate=1e-3, log_every=3000, save_every=90_000),
    "medium": Schedule(150, batch_size=100, learning_rate=3e-3, log_every=600, save_every=6000),
    "short": Schedule(15, batch_size=100, learning_rate=3e-3, log_every=600, save_every=6000),
    "quick": Schedule(1, batch_size=20, learning_rate=3e-3, log_every=1640, save_every=3280),
}
NETWORKS = {
    1: {"network__hidden": (200, 200), "model__latent_dim": 50},
    2: {
        "model": "layered", "network__hidden": (200, 200), "model__latent_layers": (100,),
        "model__layer_hidden": (100, 100), "model__latent_dim": 50,
    },
}  # fmt: skip
QUICK_NETWORKS = {
    1: {"network__hidden": (16,), "model__latent_dim": 4},
    2: {
        "model": "layered", "network__hidden": (16,), "model__latent_layers": (4,), "model__layer_hidden": (8,),
        "model__latent_dim": 2,
    },
}  # fmt: skip


class Cell(NamedTuple):
    """One cell of the table: layers, samples k, column, schedule, and Adam's b1."""

    layers: int
    k: int
    column: str
    schedule: str
    b1: float

    @property
    def trained_as(self) -> "Cell":
        """The cell with the same training: with k = 1, two columns are one training."""
        column = SAME_WITH_ONE_SAMPLE.get(self.column, self.column) if self.k == 1 else self.column
        return self._replace(column=column)

    def directory(self, output: Path) -> Path:
        """Return the folder of the cell's runs, which has a subfolder for each seed."""
        cell = self.trained_as
        return output / f"{cell.schedule},b1={cell.b1}" / f"layers={cell.layers},k={cell.k},{cell.column}"


def config_of(cell: Cell, *, data_dir: str | None = None) -> Config:
    """Return the settings of a cell's training and evaluation, except for the seed and the devices."""
    schedule, quick = SCHEDULES[cell.schedule], cell.schedule == "quick"
    objective, estimator = COLUMNS[cell.column]
    return override(
        PRESETS["digits" if quick else "mnist"],
        **(QUICK_NETWORKS if quick else NETWORKS)[cell.layers],
        data__data_dir=data_dir,
        data__holdout=0.1 if quick else 0.0,
        preprocess="dynamic-binarization",
        network__activation="tanh",
        posterior__scale_head="log-scale",
        objective=objective,
        estimator=estimator,
        objective__num_samples=cell.k,
        optimizer="adam",
        optimizer__learning_rate=schedule.learning_rate,
        schedule="staged",
        schedule__milestones=schedule.milestones,
        schedule__decay=10 ** (-1 / (STAGES - 1)),
        optimizer__b1=cell.b1,
        optimizer__b2=0.999,
        optimizer__eps=1e-4 / 20,  # published for the gradient of the sum over 20 examples
        train__steps=schedule.steps,
        train__batch_size=schedule.batch_size,
        train__log_every=schedule.log_every,
        train__evaluate_every=0,
        train__save_every=schedule.save_every,
        evaluation__num_samples=20 if quick else 5000,
    )
