"""`demo`: a workflow that survives kill -9, in a throw-away home, with nothing but this machine."""

from __future__ import annotations

from taskforge.cli.command import Example, Session, command, pass_session


@command("demo", examples=[Example("taskforge demo")])
@pass_session
def demo(session: Session) -> int:
    """See a workflow survive kill -9, in a throw-away home.

    Starts a server and an HTTP target on free ports, kills the server twice while a step is in flight, and shows what
    became of the run. Exit code 0: all of it worked. Takes some seconds, leaves nothing, needs no network.
    """
    from taskforge.cli.demo.story import tell

    return tell(session)
