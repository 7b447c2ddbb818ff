"""What holds for every test: no settings of the person who runs them, and no deadlines on a busy machine."""

from __future__ import annotations

import os

import hypothesis

for name in list(os.environ):
    if name.startswith("TASKFORGE_") and not name.startswith("TASKFORGE_TEST_"):
        del os.environ[name]

# Times are no property of the code under test; a failure prints what reproduces it. What decides over a change takes
# the same examples each time; the other two profiles look for new ones.
_profile = hypothesis.settings.register_profile
_profile("default", deadline=None, print_blob=True, derandomize=True)
_profile("fresh", deadline=None, print_blob=True)
_profile("long", parent=hypothesis.settings.get_profile("fresh"), max_examples=2_000)
hypothesis.settings.load_profile(os.environ.get("TASKFORGE_TEST_HYPOTHESIS", "default"))


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: many tests wait for processes and disks."""
    return (os.cpu_count() or 1) + 1
