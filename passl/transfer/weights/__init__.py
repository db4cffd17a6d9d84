"""Weights for other libraries and from them: names, formats, and the proof that what was written computes the same.

`exporting.export_weights` and `importing.import_weights` do it; `command` is the command line. Importing this package
needs no Paddle; computing features does.
"""
