"""The list of commands, and the handler at the top: whatever happens, one clear line and a stable exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

import click

from taskforge.cli.command import Place, Root, Session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Screen

SECTIONS = {
    "Start here": {
        "demo": Place("taskforge.cli.demo", "demo", "See a workflow survive kill -9, in a throw-away home."),
        "init": Place("taskforge.cli.server", "init", "Make the home: configuration, token and key."),
        "up": Place("taskforge.cli.background", "up", "Start the server in the background; wait until it is ready."),
        "down": Place("taskforge.cli.background", "down", "Stop the server; attempts get their grace time."),
        "serve": Place("taskforge.cli.server", "serve", "Run the server in the foreground."),
        "status": Place("taskforge.cli.server", "status", "Show what runs, and where."),
        "service": Place(
            "taskforge.cli.service.command",
            "service",
            "Run the server as a service of yours: systemd, or launchd on macOS.",
        ),
        "doctor": Place(
            "taskforge.cli.doctor.command", "doctor", "Make every check that a support engineer would make."
        ),
        "logs": Place("taskforge.cli.logs", "logs", "Show the server's log: serve.log in the home."),
    },
    "Workflows": {
        "validate": Place("taskforge.cli.documents", "validate", "Check workflow files; needs no server."),
        "plan": Place("taskforge.cli.applying", "plan", "Show what apply would change, and what follows from it."),
        "apply": Place("taskforge.cli.applying", "apply", "Make the server have these workflows."),
        "export": Place("taskforge.cli.export", "export", "Write the server's workflows to files."),
        "workflow": Place(
            "taskforge.cli.workflows", "workflow", "List, show, enable, disable, hold and delete workflows."
        ),
        "graph": Place(
            "taskforge.cli.graph",
            "graph",
            "Draw a workflow, or a run with the states of its steps.",
        ),
        "state": Place("taskforge.cli.workflow_state", "state", "A workflow's state: values that outlive its runs."),
    },
    "Values and triggers": {
        "secret": Place(
            "taskforge.cli.values", "secret", "Secrets: sealed values, seen as $secrets.NAME in every workflow."
        ),
        "var": Place("taskforge.cli.values", "var", "Variables: settings, seen as $vars.NAME in every workflow."),
        "trigger": Place(
            "taskforge.cli.trigger", "trigger", "Send a webhook to a trigger, signed as its sender would."
        ),
        "deliveries": Place("taskforge.cli.deliveries", "deliveries", "The webhook inbox: what came, byte for byte."),
        "schedule": Place("taskforge.cli.schedule", "schedule", "Cron triggers: when they fire, and why they did not."),
    },
    "Runs": {
        "run": Place("taskforge.cli.run", "run", "Start a run."),
        "runs": Place("taskforge.cli.runs", "runs", "List, show, cancel, retry, replay and signal runs."),
        "why": Place("taskforge.cli.why", "why", "Explain a run: why it waits, was skipped or retried."),
        "eval": Place("taskforge.cli.eval", "evaluate", "Try an expression against what a run saw."),
        "dead": Place("taskforge.cli.dead", "dead", "Dead letters: steps that have used up their attempts."),
    },
    "More": {
        "token": Place("taskforge.cli.tokens", "token", "Create, list and revoke API tokens."),
        "profile": Place("taskforge.cli.profile", "profile", "Profiles: servers to talk to, each with its token."),
        "audit": Place("taskforge.cli.audit", "audit", "The audit log: who has changed what, and when."),
        "db": Place("taskforge.cli.db", "db", "Back up, restore, check and tidy the database."),
        "completion": Place(
            "taskforge.cli.completion", "completion", "Print the script that completes commands in a shell."
        ),
        "version": Place("taskforge.cli.server", "version", "Print the program's version."),
    },
}

root = Root(
    "taskforge",
    sections=SECTIONS,
    help="Durable workflows: accepted runs survive crashes, and always end.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or document, 3 no server or access, 4 not found, 5 conflict.",
)


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. Never lets an exception out."""
    screen = Screen()
    session = Session(screen)
    if arguments[:1] == ["__complete"]:
        return _complete(arguments[1:], session)
    code: int = Exit.DONE
    try:
        code = _run(arguments, session)
        screen.flush()
    except CommandError as fault:
        screen.error(fault)
        code = fault.code
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    finally:
        session.close()
    return int(code)


def _complete(arguments: Sequence[str], session: Session) -> int:
    """Answer a shell that completes a line. Whatever is wrong, the line stays as it is."""
    from taskforge.cli.completing import complete

    with contextlib.suppress(Exception, KeyboardInterrupt):
        complete(root, session, arguments)
        session.close()
    return Exit.DONE


def _run(arguments: Sequence[str], session: Session) -> int:
    from taskforge.core.errors import StartupError

    try:
        result = root.main(list(arguments) or ["--help"], prog_name="taskforge", standalone_mode=False, obj=session)
        return result if isinstance(result, int) else Exit.DONE
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as wrong:
        path = wrong.ctx.command_path if isinstance(wrong, click.UsageError) and wrong.ctx else "taskforge"
        raise CommandError(wrong.format_message(), hint=f"{path} --help", code=Exit.USAGE) from None
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except StartupError as error:
        raise CommandError(error.message) from None
    except (CommandError, KeyboardInterrupt):
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise CommandError(f"{place}{(error.strerror or str(error)).lower()}") from None
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        if session.asked and isinstance(error, (LookupError, TypeError, AttributeError, ValueError)):
            raise session.client.misunderstood(error) from None
        raise CommandError(
            f"this is a fault of taskforge itself: {type(error).__name__}: {error}",
            hint="repeat the command with `python -X dev -m taskforge …` to see where, and report it",
        ) from None
