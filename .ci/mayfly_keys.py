"""Mayfly's own keys, as `mayfly/identity/keys.py` has them, for the scan for secrets."""

import re

from detect_secrets.plugins.base import RegexBasedDetector


class MayflyKeyDetector(RegexBasedDetector):
    secret_type = "Mayfly Key"  # noqa: S105 - what it is called
    denylist = (re.compile(r"mf_[0-9a-f]{16}\.[A-Za-z0-9_-]{43}"),)
