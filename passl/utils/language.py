"""The language in which a person is told what a run did."""

import os
from typing import Literal


def language() -> Literal['en', 'zh']:
    """'zh' if the first of LC_ALL, LC_MESSAGES and LANG that is set begins with it, else 'en'."""
    chosen = next((os.environ[name] for name in ('LC_ALL', 'LC_MESSAGES', 'LANG') if os.environ.get(name)), '')
    return 'zh' if chosen.lower().startswith('zh') else 'en'
