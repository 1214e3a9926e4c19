"""A network while it learns: its steps, alone or as one of several processes, and its errors on other cells."""

from __future__ import annotations

from digitnet_data import NUM_CLASSES, Cells, normalize
from digitnet_processes import processes
from digitnet_scores import score

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

EVALUATION_BATCH = 256  # cells; what the processor's caches hold is faster than more


class Learner:
    """`model`, the running average of its weights, AdamW and its OneCycle schedule: all that a step changes.

    `averaging` is the part of the average that a step keeps, so it spans about 1 / (1 - averaging) steps; `steps` are
    those of the whole training, in the first `warm_up` part of which the learning rate rises to `lr`.

    Of several processes (torchrun) each computes its share of every batch, and the mean of their gradients is the
    whole batch's.
    """

    def __init__(
        self, model: nn.Module, *, lr: float, steps: int, warm_up: float, weight_decay: float, averaging: float
    ) -> None:
        self.model = model
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(averaging), use_buffers=True)
        self.network = nn.parallel.DistributedDataParallel(model) if processes()[1] > 1 else model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=lr, total_steps=steps, pct_start=warm_up
        )

    def step(
        self, x: torch.Tensor, labels: torch.Tensor, batch_size: int, label_smoothing: float, bf16: bool
    ) -> torch.Tensor:
        """One step on `x`, float32 [n, 1, 28, 28]: this process's share of a batch of `batch_size` cells, all if alone.

        Returns what the share adds to the batch's mean loss.
        """
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = self.network(x)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing, reduction="sum")
        world = processes()[1]
        loss = loss * (world / batch_size)  # the processes' mean is the mean over the batch
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.averaged.update_parameters(self.model)
        return loss.detach() / world

    def parts(self) -> dict:
        """What has a state, by name."""
        return {name: getattr(self, name) for name in ("model", "averaged", "optimizer", "schedule")}

    def state_dict(self) -> dict:
        """All that the next step depends on, but for the cells."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state_dict` was taken."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])

    def averaged_weights(self) -> dict[str, torch.Tensor]:
        """A copy of the averaged weights: a state_dict of the network."""
        weights = self.averaged.module.state_dict()
        return {name: value.clone(memory_format=torch.contiguous_format) for name, value in weights.items()}


def evaluate(model: nn.Module, cells: Cells, label_smoothing: float) -> dict:
    """Loss and errors of `model` on all `cells`, as counts: of cells, of digits (not blank), of whole boards."""
    rank, world = processes()
    model.eval()
    logits = torch.zeros(len(cells.labels), NUM_CLASSES)
    with torch.no_grad():
        batches = torch.from_numpy(cells.pixels[rank::world, None]).split(EVALUATION_BATCH)
        logits[rank::world] = torch.cat([model(normalize(batch)) for batch in batches])
    if world > 1:
        dist.all_reduce(logits)  # a sum: each process has filled in its own rows
    loss = F.cross_entropy(logits, torch.from_numpy(cells.labels), label_smoothing=label_smoothing)
    return {"loss": loss.item(), **score(cells, logits.argmax(1).numpy())}
