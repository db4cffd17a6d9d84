"""The language of what a person is told."""

import pytest

from passl.utils.language import language


@pytest.mark.parametrize('settings, want', [
    ({}, 'en'), ({'LANG': 'zh_CN.UTF-8'}, 'zh'), ({'LANG': 'en_US.UTF-8'}, 'en'),
    ({'LANG': 'zh_CN.UTF-8', 'LC_ALL': 'C'}, 'en'), ({'LC_MESSAGES': 'zh_TW', 'LANG': 'C'}, 'zh'),
    ({'LC_ALL': '', 'LANG': 'ZH_CN'}, 'zh'), ({'LC_CTYPE': 'zh_CN'}, 'en')])
def test_the_first_that_is_set_decides(settings, want, monkeypatch):
    for name in ('LC_ALL', 'LC_MESSAGES', 'LANG'):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert language() == want
