"""How the processes that train together come to the same decision at the same step."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor


class Processes:
    """The processes of a run; one alone agrees with itself at no cost.

    Attributes:
        is_first: Whether this is the one that writes the run's files and takes its commands.
        num: All processes.
        rank: Place of this one among them.
        num_data: Processes, or groups of processes, that draw rows of their own.
        data_rank: Place of this one's rows among them; a sequence group shares one.
    """

    def __init__(self, accelerator: Accelerator | None = None, *, sequence_size: int = 1) -> None:
        self._accelerator = accelerator
        self.num = accelerator.num_processes if accelerator is not None else 1
        self.rank = accelerator.process_index if accelerator is not None else 0
        self.num_data, self.data_rank = self.num // sequence_size, self.rank // sequence_size
        self.is_first = accelerator is None or accelerator.is_main_process

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether any process has set it."""
        if self._accelerator is None or self.num == 1:
            return flags
        local = torch.tensor([flags], dtype=torch.int32, device=self._accelerator.device)
        return tuple(bool(flag) for flag in self._accelerator.gather(local).any(dim=0))

    def add(self, *numbers: float) -> tuple[float, ...]:
        """Return each number's sum over all processes."""
        if self._accelerator is None or self.num == 1:
            return numbers
        boxes: list[Any] = [None] * self.num
        torch.distributed.all_gather_object(boxes, numbers)
        return tuple(map(sum, zip(*boxes, strict=True)))

    def least(self, number: int | None) -> int | None:
        """Return the least of all processes' numbers; None where one has none."""
        if self.num == 1:
            return number
        boxes: list[Any] = [None] * self.num
        torch.distributed.all_gather_object(boxes, number)
        return None if None in boxes else min(boxes)

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """Return the rows of all data ranks, one after another; all give equally many."""
        if self._accelerator is None or self.num == 1:
            return tensor
        gathered: Tensor = self._accelerator.gather(tensor.contiguous())
        if self.num_data == self.num:
            return gathered
        return torch.cat(gathered.chunk(self.num)[:: self.num // self.num_data])

    def share(self, value: Any) -> Any:
        """Return the value that the first process gave."""
        if self.num == 1:
            return value
        box = [value]
        broadcast_object_list(box)
        return box[0]
