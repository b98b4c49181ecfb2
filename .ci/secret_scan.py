"""Secrets in the files that git tracks, or in those that are named, told by file, line and kind.

What `.secrets.baseline` knows is none: examples in documents, passwords of tests. `python .ci/secret_scan.py
--accept` writes it anew, to be looked at line by line before it is committed. It names no lines, so that it
holds wherever its findings move to.
"""

import json
import subprocess
import sys
from pathlib import Path

from detect_secrets.core import baseline
from detect_secrets.core.secrets_collection import SecretsCollection

BASELINE = Path(".secrets.baseline")


def main(arguments: list[str]) -> int:
    known = baseline.load(baseline.load_from_file(str(BASELINE)), filename=str(BASELINE))
    accept = arguments == ["--accept"]
    found = SecretsCollection()
    found.scan_files(*(_tracked() if accept or not arguments else arguments))
    if accept:
        BASELINE.write_text(json.dumps(baseline.format_for_output(found, is_slim_mode=True), indent=1) + "\n")
        return 0
    new = list(found - known)
    for file, secret in new:
        print(f"{file}:{secret.line_number}: {secret.type}", file=sys.stderr)
    if new:
        print(
            "to mend it: take the secret out, and take it for known to others; if it is none, end its line "
            "with the comment `pragma: allowlist secret`",
            file=sys.stderr,
        )
    return 1 if new else 0


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and Path(name).is_file()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
