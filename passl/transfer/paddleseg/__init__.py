"""Semantic segmentation with PaddleSeg 2.8: the paper's ResNet and FCN head, and what PaddleSeg needs to run on
today's Paddle, put into its registries from outside. `run.run` is what `passl transfer-seg` calls.

Importing this package imports neither Paddle nor PaddleSeg; `library.load` does.
"""
