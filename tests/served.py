"""A search service as a process of its own, as its users start it."""

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Served:
    """A running service and its address."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        command = [sys.executable, ROOT / "tools" / "serve_retrieval.py", "--port", "0", *arguments]
        self.log = open(folder / "log.txt", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=folder
        )
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("ready: "):
                self.address = line.split()[1].rstrip("/")
                return
        self.log.seek(0)
        raise AssertionError("".join(self.lines) + self.log.read())

    def end(self) -> int:
        """End the service as a supervisor does; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.process.stdout.close()
        self.log.close()
        return code
