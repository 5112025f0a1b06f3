"""Memory: the bytes of a process that are its own, not pages of files: what it would take from others."""

from pathlib import Path


def anonymous_bytes(process: int | str = "self") -> int | None:
    """Resident anonymous memory now; None where the system does not say (only Linux does)."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None
