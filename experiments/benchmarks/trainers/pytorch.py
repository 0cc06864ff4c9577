"""A VAE in PyTorch, trained in five ways. Imports nothing of vae_jax.

They are the loop of the PyTorch example, a loader over tensors, the fastest plain loop, that loop with torch.compile,
and its step as a CUDA graph.
"""

from collections.abc import Callable
from typing import Any

REQUIREMENTS = ("torch==2.13.0", "numpy", "pillow")
VERSIONS = ("torch",)


def trainers(train: Any, test: Any, steps: int, task: dict[str, Any]) -> dict[str, Callable[[], tuple]]:
    """Return {row: make}, where make() returns the functions (epoch, test_elbo) that peers.py calls."""
    import numpy as np
    import torch
    from torch import nn, optim
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, Dataset, TensorDataset
    from trainers import torch_networks  # in the folder of peer_workers.py, the program of this process

    torch.manual_seed(0)
    on_gpu = task["platform"] == "gpu"
    device = "cuda" if on_gpu else "cpu"
    if on_gpu:
        torch.set_float32_matmul_precision("high")  # TF32, as in XLA; it is the default for convolutions
        torch.backends.cudnn.benchmark = True
    loaded, test_images = (torch.from_numpy(x).float().div_(255).flatten(1) for x in (train, test))  # [N, D]
    images, test_images = loaded.to(device), test_images.to(device)
    batch_size, rate = task["batch_size"], task["learning_rate"]

    def new_model() -> nn.Module:
        return torch_networks.make(task, train.shape[1:]).to(device)

    def forward(model, x):
        # No cache: each weight is used once in a step, and a CUDA graph cannot contain the cache.
        with torch.autocast(device, torch.bfloat16, enabled=task["precision"] == "bfloat16", cache_enabled=False):
            outputs = model(x)
        return [output.float() for output in outputs]

    def divergence(mu, logvar):
        return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())

    def loss_from_outputs(x, logits, *posterior):
        """Return the loss, given the mean and log variance of q(z|x), or the KL of each example of a hierarchy."""
        kl = divergence(*posterior) if len(posterior) == 2 else posterior[0].sum()
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl

    def test_elbo_of(model) -> Callable[[], float]:
        @torch.no_grad()
        def test_elbo() -> float:
            return -sum(loss_from_outputs(x, *model(x)).item() for x in test_images.split(1000)) / len(test_images)

        return test_elbo

    class Decoded(Dataset):
        """Images converted one by one to a PIL image and then to a float tensor, as torchvision's MNIST does."""

        def __len__(self) -> int:
            return len(train)

        def __getitem__(self, index: int) -> tuple[torch.Tensor]:
            from PIL import Image

            image = np.array(Image.fromarray(train[index].squeeze()), copy=True)
            return (torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1).contiguous().float().div(255),)

    def loader(dataset: Dataset) -> tuple[Callable[[], float], Callable[[], float]]:
        model = new_model()
        optimizer = optim.Adam(model.parameters(), lr=rate)
        batches = DataLoader(dataset, batch_size=batch_size, shuffle=True, pin_memory=on_gpu)

        def epoch() -> float:
            total, count = 0.0, 0
            for i, (x,) in enumerate(batches):
                if i == steps:
                    break
                optimizer.zero_grad()
                x = x.flatten(1).to(device, non_blocking=True)
                logits, mu, logvar = forward(model, x)
                loss = F.binary_cross_entropy(torch.sigmoid(logits), x, reduction="sum") + divergence(mu, logvar)
                loss.backward()
                total, count = total + loss.item(), count + len(x)
                optimizer.step()
            return total / count

        return epoch, test_elbo_of(model)

    class Training:
        """A model and its optimizer; the sum of the losses stays on the device."""

        def __init__(self, *, compiled: bool = False, capturable: bool = False) -> None:
            self.model = model = new_model()
            self.optimizer = optim.Adam(model.parameters(), lr=rate, fused=True, capturable=capturable)
            self.total = torch.zeros((), device=device)

            def loss_of(x):
                return loss_from_outputs(x, *forward(model, x))

            self.loss_of = torch.compile(loss_of) if compiled else loss_of

        def step(self, indices: torch.Tensor) -> None:
            self.optimizer.zero_grad()
            loss = self.loss_of(images[indices])
            loss.backward()
            self.optimizer.step()
            self.total += loss.detach()

        def epoch(self, step: Callable[[torch.Tensor], None]) -> float:
            """Return the mean loss of `steps` steps; the last batch is completed with the first examples."""
            self.total.zero_()
            order = torch.randperm(len(images), device=device)
            order = order[torch.arange(steps * batch_size, device=device) % len(images)]
            for indices in order.split(batch_size):
                step(indices)
            return self.total.item() / len(order)

    def plain(compiled: bool = False) -> tuple[Callable[[], float], Callable[[], float]]:
        training = Training(compiled=compiled)
        return lambda: training.epoch(training.step), test_elbo_of(training.model)

    def cuda_graph() -> tuple[Callable[[], float], Callable[[], float]]:
        training = Training(capturable=True)
        batch = torch.arange(batch_size, device=device) % len(images)  # the indices of the next replay
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # warm-up: the initialization of libraries and optimizer must not be captured
            for _ in range(3):
                training.step(batch)
        torch.cuda.current_stream().wait_stream(stream)
        training.optimizer.zero_grad()  # so that the gradients are allocated in the memory of the graph
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            training.step(batch)

        def replay(indices: torch.Tensor) -> None:
            batch.copy_(indices)
            graph.replay()

        return lambda: training.epoch(replay), test_elbo_of(training.model)

    return {
        "torch-example": lambda: loader(Decoded()),
        "torch-loader": lambda: loader(TensorDataset(loaded)),
        "torch-plain": plain,
        "torch-compiled": lambda: plain(compiled=True),
        "torch-cuda-graph": cuda_graph,
    }
