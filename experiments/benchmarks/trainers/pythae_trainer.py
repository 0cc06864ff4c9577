"""pythae: its VAE with the benchmark's networks, and the epoch of its BaseTrainer. Imports nothing of vae_jax."""

import tempfile
from collections.abc import Callable
from typing import Any

REQUIREMENTS = ("pythae==0.1.2", "torch==2.13.0")
VERSIONS = ("pythae", "torch")


def trainers(train: Any, test: Any, steps: int, task: dict[str, Any]) -> dict[str, Callable[[], tuple]]:
    """Return {row: make}, where make() returns the functions (epoch, test_elbo) that peers.py calls."""
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from torch import nn

    torch.manual_seed(0)
    batch_size, (hidden,), latent = task["batch_size"], task["hidden"], task["latent_dim"]
    images, test_images = (torch.from_numpy(x).float().div_(255).flatten(1) for x in (train, test))  # [N, D]
    images, pixels = images[: steps * batch_size], images.shape[1]

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(pixels, hidden)
            self.mean, self.log_variance = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

        def forward(self, x):
            h = torch.relu(self.hidden(x))
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels), nn.Sigmoid())

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z))

    def make() -> tuple[Callable[[], float], Callable[[], float]]:
        config = VAEConfig(input_dim=(pixels,), latent_dim=latent, reconstruction_loss="bce")
        model = VAE(config, encoder=Encoder(), decoder=Decoder())
        folder = tempfile.TemporaryDirectory()
        settings = BaseTrainerConfig(
            output_dir=folder.name,
            per_device_train_batch_size=batch_size,
            num_epochs=1,
            learning_rate=task["learning_rate"],
            optimizer_cls="Adam",
            no_cuda=True,
        )
        trainer = BaseTrainer(model, BaseDataset(images, torch.zeros(len(images))), training_config=settings)
        trainer.prepare_training()
        done = 0

        def epoch() -> float:
            nonlocal done
            assert folder  # keeps the temporary folder until the trainer is deleted
            done += 1
            return float(trainer.train_step(done))

        @torch.no_grad()
        def test_elbo() -> float:
            model.eval()
            batches = test_images.split(1000)
            return -sum(model({"data": x}).loss.item() * len(x) for x in batches) / len(test_images)

        return epoch, test_elbo

    return {"pythae": make}
