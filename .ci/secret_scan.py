"""Secrets in the files that git tracks, or in those that are named, told by file, line and kind.

What `.secrets.baseline` knows is none: examples in documents, passwords of tests. `python .ci/secret_scan.py
--accept` writes it anew, to be looked at line by line before it is committed. It names no lines, so that it
holds wherever its findings move to.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from detect_secrets.core import baseline
from detect_secrets.core.secrets_collection import SecretsCollection

BASELINE = Path(".secrets.baseline")
PLUGIN = Path(".ci/mayfly_keys.py")


def main(arguments: list[str]) -> int:
    known = baseline.load(baseline.load_from_file(str(BASELINE)), filename=str(BASELINE))
    accept = arguments == ["--accept"]
    files = _tracked() if accept or not arguments else arguments
    seen, clean = _clean()
    digests = {
        file: hashlib.sha256(file.encode() + b"\0" + Path(file).read_bytes()).hexdigest() for file in files
    }
    found = SecretsCollection()
    found.scan_files(*(file for file in files if accept or digests[file] not in clean))
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
        return 1
    if not arguments:
        # Of what there is now: a file that has changed since is looked at again.
        seen.parent.mkdir(exist_ok=True)
        seen.write_text("\n".join(digests.values()))
    return 0


def _clean() -> tuple[Path, set[str]]:
    """Where it is kept which files had none, by names and bytes, for these settings; and those files."""
    settings = hashlib.sha256(BASELINE.read_bytes() + PLUGIN.read_bytes()).hexdigest()
    seen = Path(".cache") / f"without-secrets-{settings[:16]}"
    return seen, set(seen.read_text().split()) if seen.exists() else set()


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and Path(name).is_file()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
