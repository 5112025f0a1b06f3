"""Memory: the bytes that a process holds: its own, and those of files that it has mapped instead of read.

Weights that were mapped are resident like those that were read, so both count; libraries are not the network's.
Only Linux says.
"""

from pathlib import Path


def anonymous_bytes(process: int | str = "self") -> int | None:
    """Resident memory that belongs to no file, now; None where the system does not say."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


def mapped_bytes() -> int:
    """Resident pages of the files that this process has mapped, libraries aside; 0 where the system does not say."""
    n_bytes, is_counted = 0, False
    try:
        for line in Path("/proc/self/smaps").read_text().splitlines():
            words = line.split()
            if not words[0].endswith(":"):  # a new mapping: addresses, rights, offset, device, inode, path
                is_counted = len(words) > 5 and words[5].startswith("/") and ".so" not in words[5]
            elif is_counted and words[0] == "Rss:":
                n_bytes += 1024 * int(words[1])
    except OSError:
        pass
    return n_bytes
