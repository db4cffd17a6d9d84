"""The point at which faster kernels for the device at hand hook in; without any, Paddle's own compute."""

from typing import Any, Callable

_choosers: dict[str, Callable[..., Any]] = {}


def register(**choosers: Callable[..., Any]) -> None:
    """Offer kernels by name: functions that are called as `find` is, and give a kernel or None."""
    _choosers.update(choosers)


def find(name: str, *args: Any) -> Any:
    """The registered kernel `name` that suits these arguments, or None."""
    choose = _choosers.get(name)
    return None if choose is None else choose(*args)
