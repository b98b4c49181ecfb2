"""Known vulnerabilities of what the lock names, by pip-audit. Its answer is good for a day; where its
database cannot be reached, that is said, and nothing fails.
"""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

LOCK = Path("requirements.lock")
DAY_SECONDS = 86_400
AWAY = (
    "ConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "ProxyError",
    "SSLError",
    "HTTPError",
    "Could not connect",
)
"""What pip-audit says where its database does not answer, in one way or the other."""


def main() -> int:
    clean = Path(".cache") / f"audited-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"
    if clean.exists() and time.time() - clean.stat().st_mtime < DAY_SECONDS:
        return 0
    pip_audit = str(Path(sys.executable).parent / "pip-audit")
    options = ("--require-hashes", "--disable-pip", "--format=json", "--progress-spinner=off", "--timeout=5")
    command = [pip_audit, f"--requirement={LOCK}", *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        audited = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        if any(word in done.stderr for word in AWAY):
            print("pip-audit: its database cannot be reached from here; the dependencies are not audited")
            return 0
        print(done.stderr, file=sys.stderr)
        return 1
    vulnerable = [(one, found) for one in audited for found in one.get("vulns", ())]
    for one, found in vulnerable:
        better = ", ".join(found["fix_versions"]) or "no version"
        print(f"{one['name']} {one['version']}: {found['id']}, mended in {better}", file=sys.stderr)
    if vulnerable:
        return 1
    clean.parent.mkdir(exist_ok=True)
    clean.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
