"""Where pictures are drawn and saved. Matplotlib is imported on use."""

import io
import os
from typing import Any

from ..utils.files import whole_file

LARGEST = 300_000           # bytes of a PNG: a run has dozens, and a report holds them all


def pyplot() -> Any:
    """matplotlib.pyplot, with no display needed or touched."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    return plt


def save(figure: Any, path: str) -> None:
    """Write a figure in the format of its name (PNG if it has none) and close it.

    A PNG of more than LARGEST bytes gets fewer colours (256 down to 32), and if that is not enough fewer pixels.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    kind = os.path.splitext(path)[1][1:].lower() or 'png'
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=120)
    pyplot().close(figure)
    with whole_file(path) as f:
        f.write(smaller(content.getvalue()) if kind == 'png' else content.getvalue())


def smaller(png: bytes, limit: int = LARGEST) -> bytes:
    """The same picture as a PNG of at most `limit` bytes, with as many colours and pixels as that allows."""
    from PIL import Image
    if len(png) <= limit:
        return png
    image = Image.open(io.BytesIO(png)).convert('RGB')
    while True:
        for colours in (256, 128, 64, 32):
            out = io.BytesIO()
            image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
                out, 'PNG', optimize=True)
            if out.tell() <= limit:
                return out.getvalue()
        image = image.resize((max(1, image.width * 4 // 5), max(1, image.height * 4 // 5)), Image.Resampling.LANCZOS)
