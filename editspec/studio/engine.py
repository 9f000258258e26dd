"""Computation behind a draft: builds, and what models answer before and after them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import Any

from editspec.commands.build import build
from editspec.engine.built import BuiltEdit
from editspec.engine.resources import is_code_allowed
from editspec.engine.session import BuildSession
from editspec.studio.answers import Answers
from editspec.studio.base import Base, ModelSettings
from editspec.studio.draft import Draft
from editspec.studio.jobs import Jobs, Work
from editspec.studio.modality_registry import StudioModality, studio_modality_of
from editspec.studio.outcomes import Outcome, Outcomes
from editspec.studio.parsed import digest_content
from editspec_compiler import LoadedSpec, SpecError
from editspec_runtime.core.model import Model
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import EditError, UsageError
from editspec_runtime.executors.devices import pick_device
from editspec_runtime.io.files import write

BuildListener = Callable[[Base, Sequence[BuiltEdit]], None]
"""Is called with what was built, before anybody is told of it."""


ASKING = "asking the model"
"""The task of work that asks it."""


class Engine:
    """The computation of a studio, whatever the modality of its model.

    Attributes
    ----------
    draft, jobs
        The spec, and the work in the background.
    outcomes, answers
        The results of Execute, and what models have answered.
    build_listeners, model_listeners
        Callbacks for results of Execute, and for another model.
    """

    def __init__(self, draft: Draft, jobs: Jobs, device: str) -> None:
        self.draft, self.jobs, self.device_name = draft, jobs, device
        self.allow_code = is_code_allowed()
        self.device = pick_device(device)
        self.outcomes, self.answers = Outcomes(), Answers()
        self.build_listeners: list[BuildListener] = []
        self.model_listeners: list[Callable[[], None]] = []
        self._base: Base | None = None
        self._base_text = ""
        self._opening = RLock()

    @property
    def opened(self) -> Base:
        """The model that was opened last: a large text that came since need not be read for it."""
        return self._base or self.base()

    @property
    def modality(self) -> StudioModality:
        """The modality of the model."""
        return studio_modality_of(self.opened.settings.model.family)

    def base(self) -> Base:
        """Return the model that the text names, or else the model before it.

        The text may be unreadable, or name a model that is not there. Raises `SpecError` and
        `EditError` where no model was opened before.
        """
        draft, base = self.draft.snapshot(), self._base
        if base is not None and draft.text == self._base_text:
            return base
        # Without the lock, as a large text takes long.
        settings = _read_settings(draft)
        with self._opening:
            # Where the text has changed meanwhile, its own request opens its model.
            if self._base is None or draft.text == self.draft.text:
                self._base = self._open_named(settings)
                self._base_text = draft.text
            return self._base

    def _open_named(self, settings: ModelSettings | None) -> Base:
        """Open the model of the text, or else keep the one before it."""
        if settings is not None:
            try:
                return self._open_base(settings)
            except (SpecError, EditError):
                if self._base is not None:
                    return self._base
        # The draft of an earlier server may be unreadable; the opened spec is not.
        return self._base or self._open_base(ModelSettings.read(self.draft.sandbox.opened))

    def _open_base(self, settings: ModelSettings) -> Base:
        """Open a model, where it is another one than now."""
        if self._base is not None and self._base.key == settings.digest():
            return self._base
        folder = self.draft.path.parent
        base = Base.open(settings, folder, self.device, allow_code=self.allow_code)
        # They are edits of another model.
        self.outcomes.clear()
        for forget in self.model_listeners:
            forget()
        return base

    def execute(self) -> None:
        """Begin to build the edits that are on.

        The code and the cache are those of the command line.
        """
        draft = self.draft
        with draft.lock:
            draft.name_masks()
            named = draft.snapshot()
        base = self.base()
        loaded = named.load() if named.has_active_edits() else None
        content = digest_content(named.text, named.file)

        def work(progress: ProgressCallback) -> None:
            built: list[BuiltEdit] = []
            if loaded is not None:
                session = BuildSession.of(loaded, self.device_name, progress)
                built = [session.edit(number) for number in range(len(loaded.spec.edits))]
            for prepare in self.build_listeners:
                prepare(base, built)
            after, identities = name_result(base, built), named.active_identities()
            outcome = Outcome(loaded, tuple(built), after, content, identities)
            # Under the lock, so that no request sees the outcome of one text with another text.
            with draft.lock:
                self.outcomes.keep(outcome)
                draft.executed = content[-1]
                draft.store()

        self.jobs.start("execute", work, cause=named.content)

    def ask(self, number: int) -> None:
        """Begin to ask the model about edit `number`, before the edits and after the executed ones.

        What was answered already is not asked again. Raises `UsageError` where there is nothing to
        ask.
        """
        draft, base = self.draft.held(), self.base()
        outcome = self.outcomes.find(draft.content)
        modality = self.modality
        questions = modality.questions(draft, number, base)
        if not questions:
            raise UsageError("There is nothing to ask yet.", "Write a prompt first.")
        loaded = draft.load_without_edits()
        models: dict[str, Sequence[BuiltEdit]] = {base.name: ()}
        if outcome is not None:
            models[outcome.after] = outcome.built
        todo = []
        # Before and after of the first question come first: they may be all that is waited for.
        for question in questions:
            for name in models:
                todo += [(name, each) for each in question.asked if self._is_open(name, each)]

        def work(progress: ProgressCallback) -> None:
            done = 0

            def keep_going() -> None:
                progress(ASKING, done, len(todo))

            session = self.open_session(loaded, (), progress)
            answer = modality.answering(session, keep_going)
            opened: dict[str, Model] = {}
            for name, built in models.items():
                session.stack = [edit.patch for edit in built]
                opened[name] = session.current_model()
            with session.kernels():
                for name, each in todo:
                    self.answers.keep(Answers.name(name, each), answer(opened[name], each))
                    done += 1
                    keep_going()

        if todo:
            self.jobs.start("ask", work, cause=draft.content, yielding=True)

    def _is_open(self, model: str, asked: Mapping[str, Any]) -> bool:
        """Tell whether a model has not answered yet."""
        return self.answers.find(Answers.name(model, asked)) is None

    def export(self) -> Path:
        """Begin to build the saved spec, and return the folder of the build.

        The folder is ``build/NAME`` beside the spec.
        """
        builds = self.draft.path.parent / "build"
        out = builds / self.draft.path.stem
        if not out.resolve().is_relative_to(self.draft.sandbox.folder):
            raise UsageError(f"{out} leads out of the project folder.", "Remove the link.")
        loaded = self.draft.load()

        def work(progress: ProgressCallback) -> None:
            ignore = builds / ".gitignore"
            # Patches and weights are outputs: git is not to ask about them.
            if not ignore.exists():
                write(ignore, b"*\n")
            build(loaded, out, device=self.device_name, progress=progress)

        self.jobs.start("export", work, cause=self.draft.content)
        return out

    def open_session(
        self, loaded: LoadedSpec, before: Sequence[BuiltEdit], progress: ProgressCallback
    ) -> BuildSession:
        """Open a session on the model as some edits left it.

        Its model is its own: that of the base may be in use.
        """
        session = BuildSession.of(loaded, self.device_name, progress, needs_edits=False)
        session.stack = [edit.patch for edit in before]
        session.resolved = [edit.rule for edit in before]
        return session

    def find_executed(self, number: int) -> tuple[LoadedSpec, Sequence[BuiltEdit], BuiltEdit]:
        """Return the executed spec, its edits before one of a number, and that edit."""
        outcome = self.outcomes.find(self.draft.content)
        if outcome is None or outcome.loaded is None or number >= len(outcome.built):
            raise UsageError("This edit was not executed.", "Execute it first.")
        return outcome.loaded, outcome.built[:number], outcome.built[number]

    def find_built_before(self, draft: Draft, number: int) -> tuple[BuiltEdit, ...]:
        """Return the executed edits of a draft that come before edit `number` of all."""
        outcome = self.outcomes.find(draft.content)
        if outcome is None:
            return ()
        return outcome.built_before(draft.active_identities(number))

    def do_now(self, kind: str, cause: str, work: Work) -> None:
        """Do a piece of work and wait for it. Raises an `EditError` where it failed."""
        job = self.jobs.start(kind, work, cause=cause)
        job.ended.wait()
        if failure := job.failure:
            raise EditError(failure["message"], failure["hint"])
        if job.cancelled:
            raise UsageError("The work was cancelled.", "Ask for it again.")


def _read_settings(draft: Draft) -> ModelSettings | None:
    """Read the settings that a text gives its model; None where it is wrong in them."""
    try:
        return ModelSettings.read(draft.document_in_sandbox())
    except (SpecError, EditError):
        return None


def name_result(base: Base, built: Sequence[BuiltEdit]) -> str:
    """Name the model that some edits give."""
    if not built:
        return base.name
    return base.name_of(built[-1].patch.metadata["result"])
