"""What frozen features are worth: k-NN, linear and SVM classification, linear and k-NN segmentation, fine-tuning.

`options` and `report` need no Paddle; the rest is imported by `command` when the work begins.
"""
