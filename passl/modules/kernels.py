"""The point at which faster kernels for the device at hand hook in; without any, Paddle's own compute."""

_choosers = {}


def register(**choosers):
    """Offer kernels by name: functions that are called as `find` is, and give a kernel or None."""
    _choosers.update(choosers)


def find(name, *args):
    """The registered kernel `name` that suits these arguments, or None."""
    choose = _choosers.get(name)
    return None if choose is None else choose(*args)
