"""A VAE in PyTorch, trained in five ways: the loop of the PyTorch example, a loader over tensors, the fastest plain
loop, that with torch.compile, and its step as a CUDA graph. Imports nothing of vae_jax."""

from collections.abc import Callable
from typing import Any

REQUIREMENTS = ("torch==2.13.0", "numpy", "pillow")
VERSIONS = ("torch",)


def trainers(train: Any, test: Any, steps: int, task: dict[str, Any]) -> dict[str, Callable[[], tuple]]:
    """{row: make}, make() -> (epoch, test_elbo): see peers.py."""
    import numpy as np
    import torch
    from torch import nn, optim
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, Dataset, TensorDataset
    from trainers import torch_networks  # found beside peers.py, the program of this process

    torch.manual_seed(0)
    on_gpu = task["platform"] == "gpu"
    device = "cuda" if on_gpu else "cpu"
    if on_gpu:
        torch.set_float32_matmul_precision("high")  # TF32, as in XLA; convolutions are so anyway
        torch.backends.cudnn.benchmark = True
    loaded, test_images = (torch.from_numpy(x).float().div_(255).flatten(1) for x in (train, test))  # [N, D]
    images, test_images = loaded.to(device), test_images.to(device)
    batch_size, rate = task["batch_size"], task["learning_rate"]

    def new_model() -> nn.Module:
        return torch_networks.make(task, train.shape[1:]).to(device)

    def in_training(model, x):
        # Nothing is cached: each weight is read once in a step, and a CUDA graph could not hold it.
        with torch.autocast(device, torch.bfloat16, enabled=task["precision"] == "bfloat16", cache_enabled=False):
            outputs = model(x)
        return [output.float() for output in outputs]

    def divergence(mu, logvar):
        return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())

    def loss_from_logits(logits, mu, logvar, x):
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + divergence(mu, logvar)

    def test_elbo_of(model) -> Callable[[], float]:
        @torch.no_grad()
        def test_elbo() -> float:
            return -sum(loss_from_logits(*model(x), x).item() for x in test_images.split(1000)) / len(test_images)

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
                logits, mu, logvar = in_training(model, x)
                loss = F.binary_cross_entropy(torch.sigmoid(logits), x, reduction="sum") + divergence(mu, logvar)
                loss.backward()
                total, count = total + loss.item(), count + len(x)
                optimizer.step()
            return total / count

        return epoch, test_elbo_of(model)

    class Training:
        """A model and its optimizer, whose steps add their losses up on the device."""

        def __init__(self, *, compiled: bool = False, capturable: bool = False) -> None:
            self.model = model = new_model()
            self.optimizer = optim.Adam(model.parameters(), lr=rate, fused=True, capturable=capturable)
            self.total = torch.zeros((), device=device)

            def loss_of(x):
                return loss_from_logits(*in_training(model, x), x)

            self.loss_of = torch.compile(loss_of) if compiled else loss_of

        def step(self, indices: torch.Tensor) -> None:
            self.optimizer.zero_grad()
            loss = self.loss_of(images[indices])
            loss.backward()
            self.optimizer.step()
            self.total += loss.detach()

        def epoch(self, step: Callable[[torch.Tensor], None]) -> float:
            """The mean loss of `steps` steps; the last batch is filled up with the first examples."""
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
        read = torch.arange(batch_size, device=device) % len(images)  # the batch of the next replay
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what libraries and the optimizer make at first is not to be captured
            for _ in range(3):
                training.step(read)
        torch.cuda.current_stream().wait_stream(aside)
        training.optimizer.zero_grad()  # so that the gradients lie in the graph's own memory
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            training.step(read)

        def replay(indices: torch.Tensor) -> None:
            read.copy_(indices)
            graph.replay()

        return lambda: training.epoch(replay), test_elbo_of(training.model)

    return {
        "torch-example": lambda: loader(Decoded()),
        "torch-loader": lambda: loader(TensorDataset(loaded)),
        "torch-plain": plain,
        "torch-compiled": lambda: plain(compiled=True),
        "torch-cuda-graph": cuda_graph,
    }
