"""The language that the words for people are in."""

import os


def language() -> str:
    """'zh' if the first of LC_ALL, LC_MESSAGES and LANG that is set begins so, else 'en'."""
    chosen = next((os.environ[name] for name in ('LC_ALL', 'LC_MESSAGES', 'LANG') if os.environ.get(name)), '')
    return 'zh' if chosen.lower().startswith('zh') else 'en'
