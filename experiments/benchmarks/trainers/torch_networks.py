"""The networks of the rows in PyTorch. Imports nothing of vae_jax.

They map flat images [B, H·W·C], pixels in [0, 1], to (logits of the same shape, mean [B, D], log variance [B, D]). The
hierarchy maps them to (logits, KL [B]).
"""

import itertools
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

LN2 = math.log(2)


def make(task: dict[str, Any], image_shape: tuple[int, int, int]) -> nn.Module:
    """Build the network of a task of peers.py, for images [H, W, C]."""
    if task["network"] == "mlp":
        height, width, channels = image_shape
        return MLP(height * width * channels, *task["hidden"], task["latent_dim"])
    if task["network"] == "ladder-mlp":
        return Ladder(image_shape[0] * image_shape[1] * image_shape[2], task["hidden"], task["latent_dims"])
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


class Bottleneck(nn.Module):
    """last(gelu(middle(gelu(Σ_i first_i(gelu(x_i)))))) of vectors, with layers of one width."""

    def __init__(self, inputs: int, width: int, features: int, count: int = 1) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(inputs, width) for _ in range(count))
        self.middle, self.last = nn.Linear(width, width), nn.Linear(width, features)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        h = sum(layer(gelu(x)) for layer, x in zip(self.first, inputs, strict=True))
        return self.last(gelu(self.middle(gelu(h))))


def log_scale(s: torch.Tensor) -> torch.Tensor:
    """Compute log σ of σ = log2(1 + 2^s), which is linear far below 0."""
    t = LN2 * s.float()
    return torch.log(F.softplus(t.clamp(min=-15))) + (t + 15).clamp(max=0) - math.log(LN2)


class Stochastic(nn.Module):
    """A stochastic layer of a `Ladder` with one block at its level."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.prior = Bottleneck(width, width, 2 * latent + width)
        self.posterior = Bottleneck(width, width, 2 * latent, count=2)
        self.projection, self.residual = nn.Linear(latent, width), Bottleneck(width, width, width)

    def forward(self, h: torch.Tensor, evidence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loc, s, features = self.prior(h).float().split([self.latent, self.latent, h.shape[-1]], dim=-1)
        more, s_more = self.posterior(h, evidence).float().split(self.latent, dim=-1)
        log_p, log_ratio = log_scale(s), log_scale(s_more)  # log σ of p, and log σ of q less that of p
        kl = 0.5 * (torch.expm1(2 * log_ratio) - 2 * log_ratio + (more * torch.exp(-log_p)) ** 2).sum(-1)
        z = sample(loc + more, 2 * (log_p + log_ratio))
        h = h + features + self.projection(z)
        return h + self.residual(h), kl


class Ladder(nn.Module):
    """The model `ladder-mlp` of vae_jax with one stochastic layer at each level; posteriors are relative to the priors.

    Widths and numbers of latents are in the order from the data upwards.
    """

    def __init__(self, pixels: int, widths: list[int], latents: list[int]) -> None:
        super().__init__()
        self.input = nn.Linear(pixels, widths[0])
        self.encoder_blocks = nn.ModuleList(Bottleneck(width, width, width) for width in widths)
        self.down = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.top = nn.Parameter(torch.zeros(widths[-1]))
        self.layers = nn.ModuleList(Stochastic(*sizes) for sizes in zip(widths, latents, strict=True))
        self.up = nn.ModuleList(nn.Linear(b, a) for a, b in itertools.pairwise(widths))
        self.output = nn.Linear(widths[0], pixels)
        self.output_bias = nn.Parameter(torch.zeros(pixels))
        self._initialize(len(widths))

    def _initialize(self, depth: int) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                nn.init.zeros_(layer.bias)
        ends = [block.last for block in self.encoder_blocks]
        ends += [end for layer in self.layers for end in (layer.residual.last, layer.projection)]
        for end in ends:
            end.weight.data /= math.sqrt(depth)
        for layer in self.layers:
            nn.init.zeros_(layer.prior.last.weight)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h, evidence = self.input(x).float(), []
        for i, block in enumerate(self.encoder_blocks):
            h = self.down[i - 1](h).float() if i else h
            h = h + block(h)
            evidence.append(h)
        h, total = self.top.expand(len(x), -1), 0.0
        for i in reversed(range(len(self.layers))):
            h = self.up[i](h).float() if i < len(self.up) else h
            h, kl = self.layers[i](h, evidence[i])
            total = total + kl
        return self.output(gelu(h)).float() + self.output_bias, total
