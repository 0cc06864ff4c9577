"""The VAE of the PyTorch examples, in four ways: its own loop, a loader over tensors, the fastest plain loop, and that
with torch.compile. Imports nothing of vae_jax."""

from collections.abc import Callable
from typing import Any

REQUIREMENTS = ("torch==2.13.0", "numpy", "pillow")
VERSIONS = ("torch",)


def trainers(train: Any, test: Any, steps: int, network: dict[str, Any]) -> dict[str, Callable[[], tuple]]:
    """{row: make}, make() -> (epoch, test_elbo): see peers.py."""
    import numpy as np
    import torch
    from torch import nn, optim
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, Dataset, TensorDataset

    torch.manual_seed(0)
    images, test_images = (torch.from_numpy(x).float().div_(255).flatten(1) for x in (train, test))  # [N, D]
    pixels, hidden, latent = images.shape[1], network["hidden"], network["latent_dim"]
    batch_size, rate = network["batch_size"], network["learning_rate"]

    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(pixels, hidden)
            self.fc21, self.fc22 = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
            self.fc3, self.fc4 = nn.Linear(latent, hidden), nn.Linear(hidden, pixels)

        def forward(self, x):
            h = F.relu(self.fc1(x))
            mu, logvar = self.fc21(h), self.fc22(h)
            std = torch.exp(0.5 * logvar)
            z = mu + torch.randn_like(std) * std
            return self.fc4(F.relu(self.fc3(z))), mu, logvar

    def divergence(mu, logvar):
        return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())

    def loss_from_logits(model, x):
        logits, mu, logvar = model(x)
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + divergence(mu, logvar)

    def test_elbo_of(model) -> Callable[[], float]:
        @torch.no_grad()
        def test_elbo() -> float:
            return -sum(loss_from_logits(model, x).item() for x in test_images.split(1000)) / len(test_images)

        return test_elbo

    class Decoded(Dataset):
        """Images that become a PIL image and then a float tensor, one by one, as MNIST and ToTensor make them."""

        def __len__(self) -> int:
            return len(train)

        def __getitem__(self, index: int) -> tuple[torch.Tensor]:
            from PIL import Image

            one = np.array(Image.fromarray(train[index].squeeze()), copy=True)
            return (torch.from_numpy(np.atleast_3d(one)).permute(2, 0, 1).contiguous().float().div(255),)

    def loader(dataset: Dataset) -> tuple[Callable[[], float], Callable[[], float]]:
        model = VAE()
        optimizer = optim.Adam(model.parameters(), lr=rate)
        batches = DataLoader(dataset, batch_size=batch_size, shuffle=True)

        def epoch() -> float:
            total, count = 0.0, 0
            for i, (x,) in enumerate(batches):
                if i == steps:
                    break
                optimizer.zero_grad()
                x = x.view(-1, pixels)
                logits, mu, logvar = model(x)
                loss = F.binary_cross_entropy(torch.sigmoid(logits), x, reduction="sum") + divergence(mu, logvar)
                loss.backward()
                total, count = total + loss.item(), count + len(x)
                optimizer.step()
            return total / count

        return epoch, test_elbo_of(model)

    def plain(compiled: bool = False) -> tuple[Callable[[], float], Callable[[], float]]:
        model = VAE()
        optimizer = optim.Adam(model.parameters(), lr=rate, fused=True)

        def loss_of(x):
            return loss_from_logits(model, x)

        if compiled:
            loss_of = torch.compile(loss_of, dynamic=False)  # one program for each batch size

        def epoch() -> float:
            total, order = torch.zeros(()), torch.randperm(len(images))[: steps * batch_size]
            for indices in order.split(batch_size):
                optimizer.zero_grad()
                loss = loss_of(images[indices])
                loss.backward()
                optimizer.step()
                total += loss.detach()
            return total.item() / len(order)

        return epoch, test_elbo_of(model)

    return {
        "torch-example": lambda: loader(Decoded()),
        "torch-loader": lambda: loader(TensorDataset(images)),
        "torch-plain": plain,
        "torch-compiled": lambda: plain(compiled=True),
    }
