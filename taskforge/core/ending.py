"""How a run ends: `undo` in reverse order, `on_failure`, `finally`, `notify`, and only then its terminal state.

A handler that fails is recorded and changes nothing else. The first error is the run's.
"""

from __future__ import annotations

from taskforge.core.errors import Failure
from taskforge.core.jsontext import JsonError, dumps
from taskforge.core.model import JSON, Prepared, Step
from taskforge.core.progress import UNDONE, is_caught
from taskforge.core.retrying import Place, RunRetrying, plan_places
from taskforge.core.rows import CRASH_LIMIT
from taskforge.core.snapshot import Ending, Frame, StepRun
from taskforge.core.states import RUN_TERMINAL, RunState, StepState

MAIN, ON_FAILURE, FINALLY, NOTIFY = "", "on_failure", "finally", "notify"
"""Names of the run's own frames."""


class RunEnding(RunRetrying):
    """Ends runs."""

    def conclude(self, state: RunState, output: JSON, failure: Failure | None) -> None:
        """Stop what is still going on, run the handlers that the outcome calls for, then end the run."""
        run = self.run
        if run.state in RUN_TERMINAL or run.ending is not None:
            return
        problem = self._output_problem(output)
        if problem is not None:
            state, output, failure = RunState.FAILED, None, Failure("OUTPUT_TOO_LARGE", problem)
        self._stop_steps()
        run.preparing = None
        run.ending = Ending(state, output, failure)
        self._next_phase()

    def _output_problem(self, output: JSON) -> str | None:
        limit = self.context.output_limit
        if output is None:
            return None
        try:
            text = dumps(output)
        except JsonError as error:
            return f"the run's output cannot be written as JSON: {error.message}"
        self._output_text = output, text
        size = len(text) if text.isascii() else len(text.encode())
        return None if size <= limit else f"the run's output has {size} bytes; the limit is {limit}"

    def end_at_once(self, state: RunState, failure: Failure) -> None:
        """End the run without its handlers."""
        self._stop_steps()
        self._finish(state, None, failure)

    def _stop_steps(self) -> None:
        for at in list(self.run.live.values()):
            if not at.ended:
                at.parent.open = False
                self._end(at, StepState.CANCELLED, code="RUN_ENDED")

    # ---- phases

    def _next_phase(self) -> None:
        """Begin the next handler of the run, or end it. Phases: undo, on_failure, finally, notify."""
        run, ending = self.run, self.run.ending
        assert ending is not None
        if ending.phase == "undo":
            at = self._next_undo() if ending.state is RunState.FAILED else None
            if at is not None:
                run.undone = True
                at.stage = "undo"
                self.touch(at)
                self._running()
                self.open(at, "!undo", at.step.handlers["undo"])
                return
            ending.phase = ON_FAILURE
            if ending.state is RunState.FAILED and run.plan.on_failure:
                self._running()
                self._advance(Frame(None, ON_FAILURE, run.plan.on_failure, ("",)), None)
                return
        if ending.phase == ON_FAILURE:
            ending.phase = FINALLY
            if run.plan.finally_ and run.started_at is not None:
                self._running()
                self._advance(Frame(None, FINALLY, run.plan.finally_, ("",)), None)
                return
        if ending.phase == FINALLY:
            ending.phase = NOTIFY
            steps = self._notifications()
            if steps:
                self._running()
                self._advance(Frame(None, NOTIFY, steps, ("",)), None)
                return
        self._finish(ending.state, ending.output, ending.error)

    def _notifications(self) -> tuple[Step, ...]:
        assert self.run.ending is not None
        notify, state = self.run.plan.notify, self.run.ending.state
        return tuple([step for states, step in notify if state in states]) if notify else ()

    def _next_undo(self) -> StepRun | None:
        """Find the step that succeeded last and is not undone yet."""
        run = self.run
        if not run.plan.has_undo:
            return None
        if run.to_undo is None:
            # Looked for once: a run may have very many steps to undo.
            places = plan_places(run.plan)
            left = [
                at
                for at in run.steps.values()
                if at.state is StepState.SUCCEEDED and "undo" in at.step.handlers and at.stage != UNDONE
            ]
            run.to_undo = sorted(left, key=lambda at: (at.finished_at or 0, _order_of_ends(at, places)))
        return run.to_undo.pop() if run.to_undo else None

    def _resume_ending(self) -> None:
        """Go on with the handlers of a run that was loaded from the store."""
        run, ending = self.run, self.run.ending
        assert ending is not None
        if ending.phase == "undo":
            for at in run.steps.values():
                if at.stage == "undo":
                    self.reopen(at, "!undo", at.step.handlers["undo"])
                    return
            self._next_phase()
        else:
            plan = run.plan
            steps = {ON_FAILURE: plan.on_failure, FINALLY: plan.finally_}.get(ending.phase) or self._notifications()
            self._resume_frame(Frame(None, ending.phase, steps, ("",)))

    def _run_frame_ended(self, frame: Frame, failure: Failure | None) -> None:
        run = self.run
        if run.ending is not None:
            self._next_phase()
        elif failure is not None:
            self.conclude(RunState.FAILED, None, failure)
        elif "output" not in run.plan.evaluations:
            self.conclude(RunState.SUCCEEDED, None, None)
        else:
            self._running()
            prepared = self.context.prepare(run, None, "output")
            if prepared is None:
                run.preparing = "output"
                self.changes.needs.append(("", "output"))
            else:
                self._conclude_with(prepared)

    def _conclude_with(self, prepared: Prepared) -> None:
        if prepared.failure is not None:
            self.conclude(RunState.FAILED, None, prepared.failure)
        else:
            self.conclude(RunState.SUCCEEDED, prepared.value, None)

    def _finish(self, state: RunState, output: JSON, failure: Failure | None) -> None:
        run = self.run
        if run.state is not RunState.RUNNING and state is not RunState.CANCELLED:
            self._running()
        run.output, run.error, run.finished_at = output, failure, self.now
        run.ending = None
        entry = {} if failure is None else {"error": failure.code, "message": failure.message}
        self._move_run(state, **entry)

    # ---- a run that kills the server

    def _convict(self) -> None:
        """The server died while this run was alone: the step that was in flight is FAILED, and the run with it."""
        message = "the server died each time it ran this step, the last time while nothing else ran"
        first: Failure | None = None
        for at in [at for at in self.run.live.values() if at.crashes >= CRASH_LIMIT]:
            failure = Failure("CRASH_LOOP", message, at.path, at.attempts, {"deaths": at.crashes})
            at.error = failure
            self._end(at, StepState.FAILED, code=failure.code)
            if at.step.kind.role == "action" and not is_caught(at):
                self._bury(at, failure, None)
            first = first or failure
        self.run.suspect = 0
        self.run.ending = None
        self.end_at_once(RunState.FAILED, first or Failure("CRASH_LOOP", message))


def _order_of_ends(at: StepRun, places: dict[str, Place]) -> tuple[tuple[int, int, int], ...]:
    """Return a key by which steps of one list, or of one item, come in the order in which they end: what is inside a
    step before it, what is in its handlers after it. For steps that ended in the same millisecond."""
    found = [(at.step.order, 1, 0)]
    place = places[at.step.id]
    while place.owner is not None:
        owner, depth = place.owner, len(place.owner.loops) + 1
        is_loop = depth < len(at.prefixes) and at.step.loops[depth - 1] == owner.id
        index = int(at.prefixes[depth][:-2].rpartition("[")[2]) if is_loop else 0
        found.append((owner.order, 2 if place.handler else 0, index))
        place = places[owner.id]
    return tuple(reversed(found))
