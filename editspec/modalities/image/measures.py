"""The measures that the checks of a spec of images take on a stack of patches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec.engine.checks import Value
from editspec.engine.functions import import_function
from editspec.engine.measures import Measures, count_not_finite
from editspec.engine.result import count_of
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.recogniser import Recogniser
from editspec_compiler.modalities.image.expected import (
    ExpectedOutput,
    expected_outputs,
    find_check_images,
    find_check_latents,
)
from editspec_compiler.modalities.image.schema import Collateral, Efficacy, Recognised
from editspec_compiler.schema import Retention
from editspec_runtime.modalities.image.generator import Generator

ROUNDING = 1e-6
"""The mean change of a pixel up to which a rule is said to ask for none."""

NOT_MEASURED = "there is nothing to measure: "
NO_WISH = NOT_MEASURED + "inside of the masks the rule asks for no change"


@dataclass(frozen=True)
class ImageMeasures(Measures):
    """The measures of a stack that is built; each gives a value and a remark."""

    def measure(self, number: int, edit: str | None) -> Value:
        """Return the value of check `number` for an edit; None means all edits together."""
        check = self.session.loaded.spec.checks[number]
        if isinstance(check, Collateral):
            return self.collateral(number, edit)
        if isinstance(check, Recognised):
            return self.recognised(number, edit)
        assert edit is not None
        if isinstance(check, Efficacy):
            return self.efficacy(self.numbers[edit], None if check.images is None else number)
        if isinstance(check, Retention):
            return self.retention(self.numbers[edit])
        return super().measure(number, edit)

    def wanted_outputs(self, number: int, check: int | None = None) -> Iterator[ExpectedOutput]:
        """Yield the pictures that edit `number` asks for.

        With `check`, these are the images that the check names, else the targets of the edit.
        """
        before, loaded = generator_of(self.session.after(number)), self.session.loaded
        # A rule that asks for a hundredth of V* is not right because a hundredth comes out.
        moment = self.session.moment
        return expected_outputs(loaded, number, before, moment, check, full=True)

    def share(self, number: int, wishes: Iterable[ExpectedOutput], count: int) -> float | None:
        """Measure the efficacy of edit `number` after the first `count` edits."""
        model = generator_of(self.session.after(count))
        return efficacy((each, each.draw(self.session.loaded, number, model)) for each in wishes)

    def efficacy(self, number: int, check: int | None) -> Value:
        """Measure the share of the asked-for change that comes out."""
        share = self.share(number, self.wanted_outputs(number, check), number + 1)
        return share, NO_WISH if share is None else ""

    def retention(self, number: int) -> Value:
        """Measure the share of the efficacy that is left after all edits."""
        wishes = list(self.wanted_outputs(number))
        built = self.share(number, wishes, number + 1)
        left = self.share(number, wishes, len(self.built))
        if built is None or left is None:
            return None, NO_WISH
        if built == 0:
            return None, NOT_MEASURED + "the edit had no efficacy that it could keep"
        return left / built, f"efficacy {built:.3g}, and {left:.3g} after all edits"

    def generators_around(self, edit: str | None) -> tuple[Generator, Generator]:
        """Return the models before and after an edit; None means all edits together."""
        first, last = 0, len(self.built)
        if edit is not None:
            first = self.numbers[edit]
            last = first + 1
        return generator_of(self.session.after(first)), generator_of(self.session.after(last))

    @torch.no_grad()
    def collateral(self, check: int, edit: str | None) -> Value:
        """Measure the mean change of the pixels outside of the masks of a check."""
        before, after = self.generators_around(edit)
        change, pixels = 0.0, 0.0
        for latent, counts in find_check_images(self.session.loaded, check, before):
            moved = (after.images(latent) - before.images(latent)).double().abs().mean(1)[0].cpu()
            change += float((counts * moved).sum())
            pixels += float(counts.sum())
        if not pixels:
            return None, NOT_MEASURED + "the masks leave no pixel"
        return change / pixels, ""

    def recognised(self, check: int, edit: str | None) -> Value:
        """Measure the share of the pictures of a check that are recognised after the edit."""
        session = self.session
        given = session.loaded.spec.checks[check]
        assert isinstance(given, Recognised)
        folder = session.loaded.path.parent
        function = import_function(given.function, folder, allow_code=session.allow_code)
        recogniser = Recogniser(given.function, function)
        before, after = self.generators_around(edit)
        latents = find_check_latents(session.loaded, check, before)
        once = recogniser.count(before, latents)
        now = recogniser.count(after, latents)
        remark = f"{once} of {count_of(len(latents), 'picture')} before the edit, {now} after it"
        return now / len(latents), remark

    def finite(self, number: int) -> Value:
        """Count the numbers that are not finite, in the patch or in its pictures.

        A patch that is not finite is not applied, so its pictures are not counted. Where the patch
        is finite, the pictures of its targets are counted.
        """
        of_patch, remark = super().finite(number)
        if of_patch:
            return of_patch, remark
        model = generator_of(self.session.after(number + 1))
        count = sum(
            count_not_finite(each.draw(self.session.loaded, number, model))
            for each in self.wanted_outputs(number)
        )
        remark = f"{count} numbers of the pictures are not finite" if count else ""
        return count, remark


@torch.no_grad()
def efficacy(pictures: Iterable[tuple[ExpectedOutput, Tensor]]) -> float | None:
    """Compute the share of the change asked for by a rule that comes out, 0 to 1.

    None where the rule asks for nothing but rounding. With x the picture before the edit, x* the
    picture that the rule asks for, y the picture after it, |.| the mean over the colours and a how
    much of a pixel lies in the place, over all pixels p of all pictures:

        sum a_p |x*_p - x_p| [ |y_p - x*_p| < |y_p - x_p| ]  /  sum a_p |x*_p - x_p|

    that is the share of the pixels that end closer to what the rule asks for than to what was
    there, each counted by how much the rule asks it to change.
    """
    reached = whole = pixels = 0.0
    for each, after in pictures:
        x, wanted, y = (picture.double().cpu() for picture in (each.before, each.wanted, after))
        weight = each.area * _distance(wanted, x)
        reached += float((weight * (_distance(y, wanted) < _distance(y, x))).sum())
        whole += float(weight.sum())
        pixels += float(each.area.sum())
    return None if whole <= ROUNDING * pixels else reached / whole


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Compute the distance of two pictures [1, 3, size, size] per pixel, [size, size]."""
    return (one - other).abs().mean(1)[0]
