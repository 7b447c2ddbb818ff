"""Records docs/session.md anew: a session in a real terminal, as text. `python -m tests.cli.record_session [FILE]`.

tmux has the terminal. Each line is typed, and the next one waits for the shell's next prompt, which tells the number of
commands so far. The page that the workflow looks at is a target of the tests; no other machine is asked.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.server import ROOT, clean_environ
from tests.support.target import Answer, running_target

_COLUMNS, _ROWS = 100, 300
_PATIENCE_S = 60.0
_WORKFLOW = """\
name: nas-watch
triggers:
  often: {cron: "*/5 * * * *"}
steps:
  - id: look
    http: {url: PAGE/status, timeout: 5s}
    retry: {max_attempts: 3, initial: 200ms}
  - id: disks
    foreach:
      items: ${{ $look.body.disks }}
      steps:
        - {id: room, transform: "${{ {disk: $item.name, free: (100 - $item.used)} }}"}
  - id: full
    transform: '${{ [$disk[] | select(.free < 10) | .disk] }}'
  - id: tell
    if: ${{ $full != [] }}
    http: {method: POST, url: PAGE/phone, json: {full: "${{ $full }}"}}
output: ${{ $full }}
"""
_LINES = (
    ("taskforge init", "Make a home: configuration, token and key."),
    ("taskforge up", "Start the server in the background."),
    (
        "taskforge validate nas-watch.yaml",
        "A mistake is found before anything is sent, with its place and what was meant.",
    ),
    ("sed -i 's/\\$disk\\[\\]/$disks[]/' nas-watch.yaml && taskforge validate nas-watch.yaml", "Mend it."),
    ("taskforge plan .", "See what would change, and what follows from it."),
    ("taskforge apply .", "Do it."),
    ("taskforge run nas-watch --follow", "Run it now and look on. The page fails once; the step is tried again."),
    ("taskforge why nas-watch#1", "Ask why it went as it went."),
    ("taskforge schedule", "See when it runs by itself."),
    ("taskforge down", "Stop. What runs goes on at the next start."),
)
_PROMPT = re.compile(r"^(\d+)\$ ?$", re.MULTILINE)


class Terminal:
    """A bash in a tmux of its own."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self._base = ["tmux", "-S", str(folder / "tmux"), "-f", os.devnull]
        self._environ = environ
        size = ["-x", str(_COLUMNS), "-y", str(_ROWS)]
        self._tmux("new-session", "-d", *size, "-c", str(folder / "flows"), "bash", "--norc", "--noprofile")

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run([*self._base, *arguments], env=self._environ, capture_output=True, text=True, check=True)
        return done.stdout

    def screen(self) -> str:
        """What the terminal shows, without what is empty at its end."""
        return self._tmux("capture-pane", "-p", "-J").rstrip() + "\n"

    def enter(self, line: str, number: int) -> str:
        """Type a line; return what it printed, once the prompt of this number is there."""
        self._tmux("send-keys", "-l", line)
        self._tmux("send-keys", "Enter")
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            shown = self.screen()
            if re.search(rf"^{number}\$$", shown.rstrip(), re.MULTILINE):
                start = shown.rindex(f"{number - 1}$ {line[:20]}")
                return shown[start:].partition("\n")[2].rpartition(f"{number}$")[0].rstrip("\n")
            time.sleep(0.05)
        raise SystemExit(f"{line!r} has not ended:\n{self.screen()}")

    def close(self) -> None:
        self._tmux("kill-server")


def record() -> str:
    """The session as Markdown."""
    with tempfile.TemporaryDirectory() as name, running_target() as target:
        folder = Path(name)
        (folder / "flows").mkdir()
        (folder / "bin").mkdir()
        program = folder / "bin" / "taskforge"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m taskforge "$@"\n')
        program.chmod(0o755)
        disks = [{"name": "tank", "used": 71}, {"name": "backup", "used": 94}]
        target.answer("/status", Answer(status=503), Answer(body={"disks": disks}))
        (folder / "flows" / "nas-watch.yaml").write_text(_WORKFLOW.replace("PAGE", target.url))
        environ = clean_environ(
            folder / "home", TASKFORGE_SERVER__PORT="0", PATH=f"{program.parent}:{os.environ['PATH']}",
            PS1="$((++COUNT))$ ", COUNT="0", TERM="xterm-256color", LANG="C.UTF-8", PROMPT_COMMAND="", NO_COLOR="1",
        )  # fmt: skip
        terminal = Terminal(folder, environ)
        try:
            told = []
            for number, (line, words) in enumerate(_LINES, start=2):
                told.append((words, line, tidy(terminal.enter(line, number), folder, target.url)))
        finally:
            terminal.close()
            subprocess.run([str(program), "down", "-q"], env=environ, check=False)
        document = _WORKFLOW.replace("PAGE", "http://192.168.1.5")
    parts = [_HEAD.format(document=document.rstrip())]
    parts += [f"{words}\n\n```\n$ {line}\n{shown}\n```\n" for words, line, shown in told]
    return "\n".join(parts)


_HEAD = """\
# A session

<!-- Made by `python -m tests.cli.record_session`, which types these lines into a real terminal. -->

`flows/nas-watch.yaml` looks at the disks of a network storage, and tells a phone when one is full. It has a mistake:

```yaml
{document}
```
"""


def tidy(text: str, folder: Path, url: str) -> str:
    """Addresses that a reader would have, for those of this machine."""
    text = text.replace(str(folder / "home"), "/home/anna/.taskforge").replace(url, "http://192.168.1.5")
    text = text.replace(url.removeprefix("http://"), "192.168.1.5")
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:7788", text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def main(arguments: list[str]) -> int:
    """Write the page."""
    Path(arguments[0] if arguments else ROOT / "docs" / "session.md").write_text(record(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
