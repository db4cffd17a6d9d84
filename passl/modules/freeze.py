"""Parameters that do not train."""


def freeze_(layer):
    """Take every parameter of `layer` out of training (no gradient). Statistics of BN are not
    touched: a layer whose BN must stay fixed too also needs `eval()`."""
    for p in layer.parameters():
        p.stop_gradient = True


def is_frozen(layer):
    """True if no parameter of `layer` trains."""
    return all(p.stop_gradient for p in layer.parameters())
