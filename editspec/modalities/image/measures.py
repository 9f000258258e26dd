"""The measures that the checks of a spec of images take on a stack of patches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec.engine.checks import Value
from editspec.engine.functions import import_function
from editspec.engine.intervals import Estimates, Ratio, start_bootstrap
from editspec.engine.measures import Measures, count_not_finite
from editspec.engine.result import count_of, to_plain
from editspec.modalities.image.artefacts import VISIBLE
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.recogniser import Recogniser
from editspec.modalities.image.traces import (
    describe_traces,
    find_match,
    find_traces,
    view_size,
)
from editspec_compiler.modalities.image.expected import (
    CheckImage,
    ExpectedOutput,
    expected_outputs,
    find_check_images,
    find_target_areas,
)
from editspec_compiler.modalities.image.schema import (
    Collateral,
    Efficacy,
    Recognised,
    VisibleTrace,
)
from editspec_compiler.schema import Retention
from editspec_runtime.modalities.image.generator import Generator

ROUNDING = 1e-6
"""The mean change of a pixel up to which a rule is said to ask for none."""

TAIL = 0.99
"""The quantile of a picture's change that tells of its largest."""

NOT_MEASURED = "there is nothing to measure: "
EVERYWHERE = NOT_MEASURED + "these pictures may change everywhere"
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
        if isinstance(check, VisibleTrace):
            return self.trace(number, edit)
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

    def reach(
        self, number: int, wishes: Iterable[ExpectedOutput], count: int
    ) -> dict[str, Ratio] | None:
        """Measure how far edit `number` comes by the first `count` edits, as `wish_ratios`."""
        model = generator_of(self.session.after(count))
        loaded = self.session.loaded
        return wish_ratios((each, each.draw(loaded, number, model)) for each in wishes)

    def efficacy(self, number: int, check: int | None) -> Value:
        """Measure the share of the asked-for change that comes out."""
        ratios = self.reach(number, self.wanted_outputs(number, check), number + 1)
        if ratios is None:
            return None, NO_WISH
        found = Estimates.of(ratios, start_bootstrap())
        numbers = dict(found.numbers)
        share, recovered = numbers.pop("efficacy"), numbers["recovered"]
        facts = {**numbers, "intervals": to_plain(found.intervals)}
        return share, f"recovered {recovered:.3g}", facts

    def retention(self, number: int) -> Value:
        """Measure the share of the efficacy that is left after all edits."""
        wishes = list(self.wanted_outputs(number))
        built = self.reach(number, wishes, number + 1)
        left = self.reach(number, wishes, len(self.built))
        if built is None or left is None:
            return None, NO_WISH
        first, last = built["efficacy"].value, left["efficacy"].value
        if not first or last is None:
            return None, NOT_MEASURED + "the edit had no efficacy that it could keep"
        return last / first, f"efficacy {first:.3g}, and {last:.3g} after all edits"

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
        images = find_check_images(self.session.loaded, check, before)
        moved = self.session.travelling.map(_Moved(before, after), images, self.session.device)
        changes, pixels, tails = torch.stack(list(moved), 1)
        ratio = Ratio(changes, pixels)
        value = ratio.value
        if value is None:
            return None, NOT_MEASURED + "the masks leave no pixel"
        ratios = {"collateral": ratio, "change_99": Ratio.mean(tails, ratio.whole > 0)}
        found = Estimates.of(ratios, start_bootstrap())
        facts = {
            "change_99": found.numbers["change_99"],
            "intervals": to_plain(found.intervals),
        }
        return value, "", facts

    def trace(self, check: int, edit: str) -> Value:
        """Measure the share of pictures that visibly change where the rule does not hold."""
        number = self.numbers[edit]
        before, after = self.generators_around(edit)
        size = view_size(before.architecture)
        loaded = self.session.loaded
        images = find_check_images(loaded, check, before, number=number, size=size)
        latents = torch.cat([each.latent for each in images])
        allowed = find_match(self.session, number, before).find_allowed(before, latents).double()
        target = find_target_areas(loaded, number, before, images, size)
        masked = torch.stack([1 - each.counts for each in images])
        allowed = torch.stack([allowed, target, masked]).amax(0)
        if bool((allowed == 1).all()):
            return None, EVERYWHERE
        traces = find_traces(before, after, latents, allowed, executor=self.session.travelling)
        names = [each.name for each in images]
        remark, facts = describe_traces(traces, names)
        return facts["thresholds"][f"{VISIBLE:g}"], remark, facts

    def recognised(self, check: int, edit: str | None) -> Value:
        """Measure the share of the pictures of a check that are recognised after the edit."""
        session = self.session
        given = session.loaded.spec.checks[check]
        assert isinstance(given, Recognised)
        folder = session.loaded.path.parent
        function = import_function(given.function, folder, allow_code=session.allow_code)
        recogniser = Recogniser(given.function, function)
        before, after = self.generators_around(edit)
        images = find_check_images(session.loaded, check, before)
        latents = [each.latent for each in images]
        once = recogniser.count(before, latents)
        now = recogniser.count(after, latents)
        remark = f"{once} of {count_of(len(latents), 'picture')} before the edit, {now} after it"
        return now / len(latents), remark

    def finite(self, number: int) -> tuple[int, str]:
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


@dataclass(frozen=True)
class _Moved:
    """A function that measures how much an image of a check changes between two models."""

    before: Generator
    after: Generator

    @torch.no_grad()
    def __call__(self, image: CheckImage) -> Tensor:
        """Compute the change of the pixels that count, their number, and its quantile, [3]."""
        difference = self.after.images(image.latent) - self.before.images(image.latent)
        moved = difference.double().abs().mean(1)[0].cpu()
        tail = find_quantile(moved, image.counts, TAIL)
        return torch.stack([(image.counts * moved).sum(), image.counts.sum(), tail])


def efficacy(pictures: Iterable[tuple[ExpectedOutput, Tensor]]) -> float | None:
    """Compute the share of the change asked for by a rule that comes out, 0 to 1.

    None where the rule asks for nothing but rounding. See `wish_ratios`.
    """
    ratios = wish_ratios(pictures)
    return None if ratios is None else ratios["efficacy"].value


@torch.no_grad()
def wish_ratios(pictures: Iterable[tuple[ExpectedOutput, Tensor]]) -> dict[str, Ratio] | None:
    """Compare pictures after an edit with those that its rule asks for.

    None where the rule asks for nothing but rounding. With x the picture before the edit, x* the
    picture that the rule asks for, y the picture after it, |.| the mean over the colours, a how
    much of a pixel lies in the place, and all sums over all pixels p of all pictures:

        efficacy        sum a_p |x*_p - x_p| [ |y_p - x*_p| < |y_p - x_p| ]  /  sum a_p |x*_p - x_p|
        recovered       1  -  sum a_p |y_p - x*_p|  /  sum a_p |x*_p - x_p|
        within_quarter  sum a_p |x*_p - x_p| [ |y_p - x*_p| <= |x*_p - x_p| / 4 ]  /  the same

    Efficacy is the share of the pixels that end closer to what the rule asks for than to what was
    there, each counted by how much the rule asks it to change.
    """
    rows, pixels = [], 0.0
    for each, after in pictures:
        x, wanted, y = (picture.double().cpu() for picture in (each.before, each.wanted, after))
        gap, left = _distance(wanted, x), _distance(y, wanted)
        weight = each.area * gap
        row = [
            (weight * (left < _distance(y, x))).sum(),
            weight.sum() - (each.area * left).sum(),
            (weight * (left <= gap / 4)).sum(),
            weight.sum(),
        ]
        rows.append(torch.stack(row))
        pixels += float(each.area.sum())
    reached, recovered, near, whole = torch.stack(rows, 1)
    if float(whole.sum()) <= ROUNDING * pixels:
        return None
    return {
        "efficacy": Ratio(reached, whole),
        "recovered": Ratio(recovered, whole),
        "within_quarter": Ratio(near, whole),
    }


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Compute the distance of two pictures [1, 3, size, size] per pixel, [size, size]."""
    return (one - other).abs().mean(1)[0]


def find_quantile(values: Tensor, weights: Tensor, share: float) -> Tensor:
    """Find the value that a share of the weight does not exceed.

    Both are of one shape, and the weight is not zero everywhere; else the result has no meaning.
    """
    order = values.flatten().argsort()
    reached = weights.flatten()[order].cumsum(0)
    place = int((reached < share * reached[-1]).sum())
    return values.flatten()[order][place]
