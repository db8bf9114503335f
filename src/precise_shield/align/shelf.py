"""Where what was computed once is kept: in memory, or written once in a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from precise_shield.align.headed import headed, save_headed
from precise_shield.core.errors import StoreError
from precise_shield.core.parallel import Crew

SCHEMA_VERSION = 1
FORMAT = "precise-shield-cache"


class Shelf(ABC):
    """Tensors by name, put there batch by batch, each batch once."""

    size: int
    """Bytes on it."""

    @abstractmethod
    def __contains__(self, name: str) -> bool: ...

    @abstractmethod
    def has(self, number: int) -> bool:
        """Whether a batch was put there."""

    @abstractmethod
    def put(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep what a batch gave."""

    @abstractmethod
    def get(self, name: str) -> Tensor:
        """One tensor, on the CPU."""

    @abstractmethod
    def reload(self, crew: Crew) -> None:
        """See what the other processes of `crew` have put there; all of them have to ask."""


class MemoryShelf(Shelf):
    """Gone when the training ends."""

    def __init__(self) -> None:
        self.size = 0
        self._batches: set[int] = set()
        self._tensors: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def has(self, number: int) -> bool:
        return number in self._batches

    def put(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        self._batches.add(number)
        self._tensors |= tensors
        self.size += sum(tensor.nbytes for tensor in tensors.values())

    def get(self, name: str) -> Tensor:
        return self._tensors[name]

    def reload(self, crew: Crew) -> None:
        self._tensors = crew.everyones(self._tensors)
        self.size = sum(tensor.nbytes for tensor in self._tensors.values())


class DiskShelf(Shelf):
    """A safetensors file a batch. A file is there whole or not at all, and is never replaced.

    Raises:
        StoreError: the folder holds what something else made, or a file is broken.
    """

    def __init__(self, folder: Path, made_by: str) -> None:
        self.folder, self.made_by = folder, made_by
        folder.mkdir(parents=True, exist_ok=True)
        self.reload(Crew())

    def __contains__(self, name: str) -> bool:
        return name in self._homes

    def has(self, number: int) -> bool:
        return self._path(number).is_file()

    def put(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        header = {"schema_version": SCHEMA_VERSION, "made_by": self.made_by}
        packed = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_headed(self._path(number), packed, FORMAT, header)
        self._homes |= dict.fromkeys(tensors, self._path(number))
        self.size += self._path(number).stat().st_size

    def get(self, name: str) -> Tensor:
        with headed(self._homes[name], FORMAT, SCHEMA_VERSION, "cache file") as (file, _):
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def reload(self, crew: Crew) -> None:
        self._homes: dict[str, Path] = {}
        self.size = 0
        for path in sorted(self.folder.glob("*.safetensors")):
            with headed(path, FORMAT, SCHEMA_VERSION, "cache file") as (file, header):
                if header["made_by"] != self.made_by:
                    raise StoreError(
                        f"{path} was made by another model, other rows or another order of them."
                        " Name another folder, or delete this one."
                    )
                for name in file.keys():  # noqa: SIM118
                    self._homes.setdefault(name, path)
            self.size += path.stat().st_size

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"
