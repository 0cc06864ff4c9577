"""The networks of the rows in PyTorch. Imports nothing of vae_jax.

They map flat images [B, H·W·C], pixels in [0, 1], to (logits of the same shape, mean [B, D], log variance [B, D]).
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def make(task: dict[str, Any], image_shape: tuple[int, int, int]) -> nn.Module:
    """Build the network of a task of peers.py, for images [H, W, C]."""
    if task["network"] == "mlp":
        height, width, channels = image_shape
        return MLP(height * width * channels, *task["hidden"], task["latent_dim"])
    return Residual(image_shape, task["hidden"], task["latent_dim"])


def sample(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Sample z ~ N(mean, exp(log_variance)) in float32, for layers of any precision."""
    std = torch.exp(0.5 * log_variance.float())
    return mean.float() + torch.randn_like(std) * std


class MLP(nn.Module):
    """The VAE of the PyTorch examples."""

    def __init__(self, pixels: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(pixels, hidden)
        self.fc21, self.fc22 = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.fc3, self.fc4 = nn.Linear(latent, hidden), nn.Linear(hidden, pixels)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = F.relu(self.fc1(x))
        mean, log_variance = self.fc21(h), self.fc22(h)
        return self.fc4(F.relu(self.fc3(sample(mean, log_variance)))), mean, log_variance


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Compute the tanh approximation, which is the default of jax.nn.gelu."""
    return F.gelu(x, approximate="tanh")


class Block(nn.Module):
    """A residual block x + conv(gelu(conv(gelu(x)))), initially the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.last(gelu(self.first(gelu(x))))


class Residual(nn.Module):
    """The network `residual` of vae_jax with one block per level; image sides must be multiples of 2 ** levels.

    Its linear layer over a 2x2 square of pixels is a convolution of that size and stride here. Its linear layer to a
    square is a 1x1 convolution and a pixel shuffle. The initialization is the same; the memory format is channels last.
    """

    def __init__(self, image_shape: tuple[int, int, int], widths: list[int], latent: int) -> None:
        super().__init__()
        height, width, channels = self.image_shape = image_shape
        self.top = height // 2 ** len(widths), width // 2 ** len(widths), widths[-1]
        features = self.top[0] * self.top[1] * self.top[2]
        inputs = [channels, *widths[:-1]]
        self.down = nn.ModuleList(nn.Conv2d(i, o, 2, stride=2) for i, o in zip(inputs, widths, strict=True))
        self.encoder_blocks = nn.ModuleList(map(Block, widths))
        self.mean, self.log_variance = nn.Linear(features, latent), nn.Linear(features, latent)
        self.start = nn.Linear(latent, features)
        self.decoder_blocks = nn.ModuleList(map(Block, reversed(widths)))
        above = list(zip(reversed(widths), reversed(inputs), strict=True))
        self.up = nn.ModuleList(nn.Conv2d(i, 4 * o, 1) for i, o in above)
        self.output_bias = nn.Parameter(torch.zeros(height * width * channels))
        self._initialize()
        self.to(memory_format=torch.channels_last)

    def _initialize(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.mean.weight)
        for layer in (self.log_variance, *(block.last for block in (*self.encoder_blocks, *self.decoder_blocks))):
            nn.init.zeros_(layer.weight)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = 2 * x.view(-1, *self.image_shape).permute(0, 3, 1, 2) - 1  # [B, C, H, W], channels last
        for down, block in zip(self.down, self.encoder_blocks, strict=True):
            h = block(down(h))
        h = gelu(h).permute(0, 2, 3, 1).flatten(1)
        mean, log_variance = self.mean(h), self.log_variance(h)
        h = self.start(sample(mean, log_variance)).view(-1, *self.top).permute(0, 3, 1, 2)
        for block, up in zip(self.decoder_blocks, self.up, strict=True):
            h = F.pixel_shuffle(up(gelu(block(h))), 2)
        return h.permute(0, 2, 3, 1).flatten(1).float() + self.output_bias, mean, log_variance
