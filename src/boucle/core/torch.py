"""Frames for PyTorch: an iterable dataset whose workers each read their own share of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

if TYPE_CHECKING:
    from boucle.core.frames import Frame


class Batches(IterableDataset[dict[str, Any]]):
    """Batches of a frame as mappings of column -> tensor; what is neither number, boolean nor time is a list.

    Times are int64 in the unit of the column, with the smallest int64 for null. Made by `Frame.torch`.
    """

    def __init__(self, frame: Frame, batch_size: int, shuffle: bool, buffer: int, seed: int, drop_last: bool) -> None:
        self._frame, self._size, self._drop_last = frame, batch_size, drop_last
        self._shuffle, self._buffer, self._seed, self._epoch = shuffle, buffer, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Another order for another pass, the same in all workers; call it before the pass."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        frame, worker = self._frame, get_worker_info()
        if self._shuffle:
            frame = frame.shuffled(self._buffer, self._seed + self._epoch)
        if worker is not None:
            frame = frame.shard(worker.id, worker.num_workers)
        for arrays in frame.arrays(self._size, drop_last=self._drop_last):
            yield {name: _tensor(values) for name, values in arrays.items()}


def _tensor(values: np.ndarray[Any, Any]) -> Any:
    if values.dtype.kind == "O":
        return values.tolist()
    return torch.from_numpy(values.view(np.int64) if values.dtype.kind == "M" else values)
