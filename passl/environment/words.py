"""States of checks, and exceptions as sentences with what to do about those that are known."""

import re

from ..utils.errors import PasslError

# works; does not; the project refuses it, with a reason; there is nothing to check
OK, NO, REFUSED, NOT_HERE = 'ok', 'no', 'refused', 'not here'
LENGTH = 220            # characters of an error's own text
LIBRARY = re.compile(r'lib(cudart|cublas|cublasLt|cudnn|nccl|curand|cusolver|cusparse|cufft|nvrtc|cuda)\w*\.so[.\d]*')
# what a text holds -> what to do
KNOWN = (
    ('no kernel image', 'This Paddle has no machine code for this GPU: install the build for it, see docs/INSTALL.md.'),
    ('driver version is insufficient', "The NVIDIA driver is older than this Paddle's CUDA needs: update the driver."),
    ('out of memory', 'The GPU has not enough free memory: see nvidia-smi for who uses it.'),
    ('only 0-dimensional arrays can be converted',
     "This Paddle's loss scaler does not work with NumPy 2.4 or newer: use AMP.dtype: bfloat16, or "
     "pip install 'numpy<2.4'."),
    ('No module named', 'A package is missing: install the project with all that it needs, see docs/INSTALL.md.'),
    ('libGL', 'Install the library, or: pip install opencv-python-headless instead of opencv-python.'),
    ('GLIBCXX', "The system's libstdc++ is older than the package needs: use a newer system or container."),
    ('CXXABI', "The system's libstdc++ is older than the package needs: use a newer system or container."),
    ('compiled using NumPy 1', "A package was built for NumPy 1: pip install 'numpy<2', or a newer package."),
    ('is not registered', 'This device has no such operator in this type: use_amp: false, or another device.'),
    ('Descriptors cannot be created directly', "pip install 'protobuf>=3.20.2,<7'"),
)


def in_words(error: BaseException, otherwise: str = '') -> str:
    """One line for an exception: its kind, the essential part of its text, and what to do (`otherwise` if that is not
    known)."""
    text = str(error)
    if isinstance(error, PasslError):
        return ' '.join(text.split())
    essence = essential(text)
    kind = type(error).__name__
    return advised(f'{kind}: {essence}' if essence else kind, text, otherwise)


def essential(text: str) -> str:
    """The part of an error's text that says what happened, in one line: Paddle puts its C++ stack before it."""
    text = re.sub(r'\x1b\[[\d;]*m', '', text)
    _, mark, summary = text.rpartition('Error Message Summary:')
    if mark:
        text = summary.replace('-' * 22, '', 1)
    text = re.split(r'\n\s*Suggestions:|\(at /|\n\s*\[Hint|\[operator <', text)[0]
    text = ' '.join(text.split())
    return text if len(text) <= LENGTH else text[:LENGTH].rsplit(' ', 1)[0] + ' ...'


def last_error(text: str) -> str:
    """The last error in what a process wrote, in one line; its last line if there is none; ''."""
    lines = [line for line in text.splitlines() if line.strip()]
    for at in range(len(lines) - 1, -1, -1):
        if re.match(r'[\w.]*(Error|Exception)\b.*:', lines[at]) and 'Termination signal' not in lines[at]:
            return essential('\n'.join(lines[at:at + 40]))
    return essential(lines[-1]) if lines else ''


def advised(sentence: str, text: str, otherwise: str = '') -> str:
    """`sentence` and what to do, if the error whose full `text` is given is known."""
    library = LIBRARY.search(text)
    if library and re.search('cannot open|not configured|not found|No such file', text):
        return (f'{library.group()} was not found: install it in the version that this Paddle was built with, and add '
                'its folder to LD_LIBRARY_PATH, see docs/INSTALL.md.')
    for part, advice in KNOWN:
        if part.lower() in text.lower():
            return f'{sentence} - {advice}'
    return f'{sentence} - {otherwise}' if otherwise else sentence
