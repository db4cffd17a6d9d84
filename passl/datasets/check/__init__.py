"""`passl check-data`: what is wrong with a folder of images, before a training finds out.

files.py finds the files, worker processes look at each (look.py), findings.py judges,
report.py tells, outputs.py writes; command.py puts them together.
"""

from .command import check_data  # noqa: F401
