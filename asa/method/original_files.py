"""The original project's asset files, for its published quick-start code.

`steering_vectors.npz`, `router.pkl`, `probes.pkl` and `scaler.pkl` hold the same adapter as `adapter.safetensors`,
as plain NumPy arrays and scikit-learn objects. They are written for others to load; this project never unpickles
anything. The published code asks the likeliest domain's probe alone, as the ablation `routed probe` does and an adapter
whose config says `weighs_probes: false`.
"""

import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from asa.method.probes import Readers
from asa.support.files import write_together


def write_quickstart_files(folder: str | Path, readers: Readers, vectors: np.ndarray) -> None:
    """Write the four files beside an adapter, all or none.

    Args:
        folder: The adapter's folder.
        readers: Of the steered layer.
        vectors: `[D, H]`, the mixed unit vectors in the order of `readers.domains`.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """

    def write_vectors(scratch: Path) -> None:
        with zipfile.ZipFile(scratch, "w") as archive:  # np.savez cannot name an array "file"
            for domain, vector in zip(readers.domains, vectors, strict=True):
                with archive.open(f"{domain}.npy", "w") as file:
                    np.lib.format.write_array(file, vector, allow_pickle=False)

    fitted = {"router": readers.router, "probes": readers.probes, "scaler": readers.scaler}
    files: dict[str | Path, Callable[[Path], object]] = {Path(folder, "steering_vectors.npz"): write_vectors}
    for name, part in fitted.items():
        files[Path(folder, f"{name}.pkl")] = partial(_write_pickle, part)
    write_together(files)


def _write_pickle(part: object, scratch: Path) -> None:
    scratch.write_bytes(pickle.dumps(part))
