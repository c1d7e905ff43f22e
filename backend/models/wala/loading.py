"""A WaLa model from the files of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode

from ...errors import BadInput
from ...tensor_files import TensorInfo, read_header
from ...weights import Installed, entries
from .config import WalaConfig
from .model import PUBLISHED_PREFIXES, Wala


def load(installed: Installed, device: torch.device, dtype: torch.dtype) -> Wala:
    """The model with its weights on `device` as `dtype`, for inference.

    Files are mapped: on the CPU a tensor that has `dtype` already is the file itself, so nothing is
    read before it is used and memory can be taken back; others are copied one at a time.
    Raises BadInput for files that do not fit the configuration.
    """
    try:
        with torch.device("meta"), _Unfilled():
            model = Wala(WalaConfig.from_dict(installed.config))
    except (ValueError, ArithmeticError, RuntimeError) as error:  # sizes that no tensor can have
        raise unfit(installed, str(error)) from None
    check_fit(installed, model)
    weights = {
        name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        for name, tensor in mapped(installed)
    }
    for part, prefix in PUBLISHED_PREFIXES.items():
        module = getattr(model, part)
        if module is not None:
            own = {name: weights[prefix + name] for name in module.state_dict()}
            module.load_state_dict(own, strict=True, assign=True)
    return model.eval().requires_grad_(False)


class _Unfilled(TorchFunctionMode):
    """Within, no tensor is filled by chance: weights come from files. Of tensors without content
    that would be no work at all, but the first of them makes torch import its compiler."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return given["tensor"] if "tensor" in given else args[0]
        scales = func in (torch.Tensor.mul, torch.Tensor.__mul__) and isinstance(args[1], float)
        if scales or func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return (torch.empty if func is torch.randn else func)(*args, **given)


class Published(Protocol):
    """A model whose weights have published names."""

    def published_state_dict(self) -> dict[str, torch.Tensor]: ...


def check_fit(installed: Installed, model: Published) -> None:
    """Raise BadInput unless the files hold exactly the weights of `model`, by name and shape."""
    have: dict[str, TensorInfo] = {}
    for path in installed.files:
        have |= read_header(path)
    problems = mismatches(
        {name: tuple(tensor.shape) for name, tensor in model.published_state_dict().items()},
        {name: info.shape for name, info in have.items()},
    )
    if problems:
        raise unfit(installed, problems)


def mismatches(want: dict[str, tuple[int, ...]], have: dict[str, tuple[int, ...]]) -> str:
    """What differs between two sets of named shapes, in words; "" when nothing does."""
    reshaped = [
        f"{name} {have[name]} instead of {want[name]}"
        for name in sorted(want.keys() & have.keys())
        if want[name] != have[name]
    ]
    return "; ".join(
        f"{title}: {_listed(names)}"
        for title, names in (
            ("missing", sorted(want.keys() - have.keys())),
            ("unexpected", sorted(have.keys() - want.keys())),
            ("of another shape", reshaped),
        )
        if names
    )


def _listed(names: list[str], most: int = 20) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def mapped(installed: Installed) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of the files, by name; nothing of them is read yet. Raises BadInput."""
    from safetensors import SafetensorError, safe_open

    for path in installed.files:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                    yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise unfit(installed, f"{path.name}: {error}") from None


def unfit(installed: Installed, problems: str) -> BadInput:
    """The error to raise for files or descriptions that cannot be a model."""
    again = (
        f"Remove {installed.folder} and get them again: "
        f"python3 -m backend models download {installed.id}"
        if installed.id in entries()
        else "Convert its checkpoint again: python3 -m backend models convert"
    )
    return BadInput(
        f"The weights of {installed.id} do not fit its description ({problems}).", again
    )
