"""Config files: reading them, what a setting may be, and the parts that they name."""

from .read import (BASE, DELETE, Dialect, apply_overrides, dump_config, load_config, merge, read_config, validate,
                   with_defaults)

__all__ = ['BASE', 'DELETE', 'Dialect', 'apply_overrides', 'dump_config', 'load_config', 'merge', 'read_config',
           'validate', 'with_defaults']
