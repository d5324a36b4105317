"""Weights of other implementations, read from their files into our modules.

Facts on names and shapes only; no code of others runs. torch is imported for files that
`torch.save` wrote and for nothing else.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.flax import load_file

from minivim.errors import UserError

SAVE_AGAIN = (
    "save it again with torch.save({k: v for k, v in model.state_dict().items()}, "
    "'weights.pt')"
)


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The float32 arrays of a `.safetensors` file, else of one that `torch.save` wrote.

    The latter is read with `weights_only=True`, which runs nothing that the file says;
    a "state_dict" inside it is unwrapped. Raises `UserError` where there is no file,
    no torch to read it, or more in it than arrays by name.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}; give one with weights")
    if path.suffix == ".safetensors":
        try:
            return {k: np.asarray(v, np.float32) for k, v in load_file(path).items()}
        except SafetensorError as error:
            raise UserError(
                f"{path} is no safetensors file ({error}); fetch it again"
            ) from error
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            f"{path} needs torch to be read; run pip install -e '.[convert]', or save "
            "it as .safetensors"
        )
    import torch

    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise UserError(
            f"{path} is damaged or holds more than arrays ({type(error).__name__}); "
            + SAVE_AGAIN
        ) from error
    values = values.get("state_dict", values) if isinstance(values, dict) else values
    if not isinstance(values, dict) or not all(map(torch.is_tensor, values.values())):
        raise UserError(f"{path} holds no arrays by name; {SAVE_AGAIN}")
    return {k: v.detach().float().numpy() for k, v in values.items()}
