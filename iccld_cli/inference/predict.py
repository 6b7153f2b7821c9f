"""Predictions for images and videos, streamed: memory does not grow with their number or length.

OUT/overlay/NAME.jpg|png|mp4          the input in class colours
OUT/side/NAME.jpg|png|mp4             the input, and beside it the overlay
OUT/labels/NAME.png                   8-bit trainIds
OUT/palette/NAME.png                  the same with the class colours as the PNG's palette
OUT/labelIds/NAME_labelIds.png        numbers and names of the Cityscapes benchmark
OUT/color/NAME.png|mp4                class colours alone
OUT/confidence/NAME.png|mp4           255 x probability of the predicted class
OUT/uncertainty/NAME.png|mp4          255 x uncertainty, see `model.Segmentation`
OUT/probabilities/NAME.safetensors    float16 (K, H, W)
OUT/frames.jsonl, to_label.jsonl, dataset/    about all frames, see `inference.collected`

Of a video, kinds without `mp4` are folders: NAME/000000.png, ...
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from iccld_cli import __version__
from iccld_cli.data.fixed import fitted_region
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader
from iccld_cli.inference import collected
from iccld_cli.inference.fullsize import Logits, segment_frame
from iccld_cli.inference.images import read_image
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.journal import Journal, Result
from iccld_cli.inference.live import LiveReader
from iccld_cli.inference.maps import maps_of
from iccld_cli.inference.model import Model
from iccld_cli.inference.outputs import (
    KINDS,
    Maps,
    VideoOutputs,
    existing_outputs,
    label_ids,
    stage_image_outputs,
)
from iccld_cli.inference.parts import IMAGES, Cut, PartRun, VideoFacts, cut
from iccld_cli.inference.predict_options import LiveFacts, PredictOptions, Summary
from iccld_cli.inference.regions import Regions
from iccld_cli.inference.remote import fetch
from iccld_cli.inference.smooth import GRID, Smoother, first_needed
from iccld_cli.inference.spans import Inexact, Span, SpanReader
from iccld_cli.inference.threads import WriteBehind, group, in_order, prefetch
from iccld_cli.inference.video import VideoFrame, VideoReader, frames_before
from iccld_cli.parts import Part
from iccld_cli.reading import MAX_FILE

_FETCHED = 8
"""Images that are fetched from addresses at a time."""

_LATENCIES = 100_000
"""Most frames of a stream whose latency is kept."""


def predict(
    model: Model,
    items: Sequence[Input],
    options: PredictOptions,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] = lambda line: None,
    part: Part | None = None,
    shared: Cut | None = None,
) -> Summary:
    """Predict a list of inputs.

    Inputs that cannot be read do not stop the others. A video that breaks off is predicted as far as it decodes.
    Results get their names when their input is done, so that no name ever holds a part. A run that ended early, killed
    or by an error, goes on when it is called again with the same settings (see `Journal`), and its results equal an
    undisturbed run's. An interrupt moreover leaves a video under work as `NAME.partial.mp4`. Streams and cameras cannot
    be resumed; an interrupt ends them, and their results are finished, and with them the files about all frames. Inputs
    after it are left to the next run with the same settings; where there are none, nothing is left to go on with.

    Args:
        model: The model.
        items: From `collect`.
        options: What to do.
        progress: Called with (units done, units in all); a unit is an image or a video frame.
        tell: Called with a line when a stream begins, breaks off or is begun anew.
        part: Predict this part of the inputs alone, for `merge.merge` to join, see `inference.parts`.
        shared: How the inputs are shared among the parts, where that is known already.

    Raises:
        IccldError: A result exists already or cannot be written, the model cannot do what is asked, or the output
            folder holds an unfinished run with other settings.
        Stopped: An interrupt ended a stream or a camera.
    """
    if options.ignore == "auto" and any(item.live for item in items):
        raise IccldError("what never moves cannot be found in a stream beforehand", "give a picture as --ignore-mask")
    if options.ignore == "auto" and any(not item.is_video and item.source is not None for item in items):
        raise IccldError(
            "what never moves cannot be found in images that are fetched one by one",
            "fetch them into a folder first, or give a picture as --ignore-mask",
        )
    unknown = [kind for kind in options.save if kind not in KINDS]
    if unknown or not options.save:
        raise IccldError(f"cannot save {', '.join(unknown) or 'nothing'}", f"choose one of {', '.join(KINDS)}")
    if options.sampling.average:
        options = replace(options, smooth=False)
    options = replace(options, sampling=model.settle(options.sampling))
    if "labelIds" in options.save:
        label_ids(model.header.label_space)  # refuse other classes before the work
    source = collected.dataset_source(model.header, model.digest, options.threshold)
    if "dataset" in options.save:
        collected.refuse_other_dataset(options.out, source)
    chosen = chosen_inputs(items, options)
    images = [item for item in chosen if not item.is_video]
    settings = {
        "version": __version__,
        "model": model.digest,
        "backend": model.backend,
        "device": model.device.partition(":")[0],
        **options.settings(),
    }
    share = None
    if part is not None:
        if any(item.live for item in items):
            raise IccldError("--part cannot go with streams and cameras", "record them first, or run them whole")
        share = PartRun(part, (shared or cut(chosen, options, part.of)).of(part), options)
        if (before := share.finished(settings)) is not None:
            return before
        chosen, options = share.items, replace(options, out=share.folder)
    places = {item: place for place, item in enumerate(chosen if share is None else share.plan.inputs)}
    with Journal(options.out, settings, lines=None if share is None else share.lines_path) as journal:
        left = [item for item in chosen if not journal.finished(item)]
        todo = without_existing(left, chosen, options, journal)
        if share is not None:  # told before the work, not when it is joined
            todo = without_existing(todo, chosen, share.final)
            share.begin(model.header)
        journal.claim(chosen)
        run = _Run(model, options, progress or (lambda done, total: None), journal, tell, places, share)
        again = set(left)
        known = [(item, journal.problem(item)) for item in chosen if item not in again]
        run.problems += [(item, problem) for item, problem in known if problem is not None]
        run.regions.images = images
        run.total = sum(run.count(item) for item in todo)
        run.progress(0, run.total)
        run.images([item for item in todo if not item.is_video])
        waiting = deque(item for item in todo if item.is_video)
        while waiting and not run.stopped:
            run.video(waiting.popleft())
        listed: list[str] = []
        dataset = None
        if share is not None:
            share.end(run.problems, len(left) - len(todo))
        else:
            listed, dataset = write_collected(options, chosen, journal, model.header, source)
        summary = Summary(
            run.done_images,
            run.done_frames,
            len(left) - len(todo),
            tuple((item.where, problem) for item, problem in run.problems),
            len(chosen) - len(left),
            tuple(listed),
            dataset,
            tuple(run.live),
        )
        if waiting:  # the journal stays for them
            raise Stopped(summary, len(waiting))
    if run.stopped:
        raise Stopped(summary)
    return summary


def chosen_inputs(items: Sequence[Input], options: PredictOptions) -> list[Input]:
    """The inputs that are predicted, images first."""
    images = [item for item in items if not item.is_video][: options.limit]
    return [*images, *(item for item in items if item.is_video)]


def write_collected(
    options: PredictOptions, items: Sequence[Input], journal: Journal, header: ModelHeader, source: dict[str, Any]
) -> tuple[list[str], PreparedDataset | None]:
    """Write the files about all frames that are asked for, see `inference.collected`.

    Returns:
        The frames most worth labelling, and the data set.
    """
    listed: list[str] = []
    dataset = None
    if "frames" in options.save:
        collected.write_frames(options.out, items, journal)
    if options.to_label:
        listed = collected.write_to_label(options.out, items, journal, header, options.to_label)
    if "dataset" in options.save:
        dataset = collected.write_dataset(options.out, items, journal, header, source)
    return listed, dataset


class Stopped(KeyboardInterrupt):
    """An interrupt ended a stream or a camera.

    Attributes:
        summary: What was done.
        left: Number of inputs after it, which the same call goes on with.
    """

    def __init__(self, summary: Summary, left: int = 0) -> None:
        super().__init__()
        self.summary, self.left = summary, left


class _Unreadable(Exception):
    """An input that cannot be read; it does not stop the others."""

    def __init__(self, problem: IccldError) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass
class _Heard:
    """What reading a video told.

    Attributes:
        decoded: Frames that could be decoded, of those that are asked for.
        stopped: Whether it ended with the stretch that is asked for.
        ended: Whether it ended with `PredictOptions.end`.
    """

    decoded: int = 0
    stopped: bool = False
    ended: bool = False


@contextlib.contextmanager
def _named(path: Path, item: Input) -> Iterator[None]:
    """Turn an error that names a fetched file into one that names where it came from."""
    try:
        yield
    except IccldError as error:
        raise _Unreadable(IccldError(error.message.replace(str(path), item.where), error.hint)) from None


class _Run:
    """The state of one call of `predict`."""

    def __init__(
        self,
        model: Model,
        options: PredictOptions,
        progress: Callable[[int, int], None],
        journal: Journal,
        tell: Callable[[str], None],
        places: Mapping[Input, int],
        share: PartRun | None,
    ) -> None:
        self.places, self.share = places, share
        self.model, self.options, self.progress, self.journal, self.tell = model, options, progress, journal, tell
        self.total = self.done_images = self.done_frames = 0
        self.problems: list[tuple[Input, IccldError]] = []
        self.live: list[LiveFacts] = []
        self.stopped = False  # by an interrupt, in a stream
        self.regions = Regions(options.ignore)
        self._regions = threading.Lock()
        self._region: np.ndarray | None = None  # of the video under work

    def count(self, item: Input) -> int:
        """Units of an input; 0 for what is not here yet or cannot be opened, which is reported when its turn comes."""
        if not item.is_video:
            return 1
        if item.source is not None:
            return 0
        try:
            with VideoReader(item.path) as reader:
                return self._frames_of(reader, self._span(item))
        except IccldError:
            return 0

    def _span(self, item: Input) -> Span:
        """The frames of a video that are asked for."""
        return (None if self.share is None else self.share.span(item)) or Span()

    def _frames_of(self, reader: VideoReader, span: Span) -> int:
        """About how many of a video's frames are to be segmented."""
        first = 0 if self.options.start is None else min(int(self.options.start * reader.fps), reader.announced)
        last = reader.announced
        if self.options.end is not None:
            last = min(max(int(self.options.end * reader.fps), first), last)
        first = max(first, span.first or 0)
        last = max(first, last if span.last is None else min(last, span.last))
        number = -(-(last - first) // self.options.every)
        return min(number, self.options.limit or number)

    def images(self, items: list[Input]) -> None:
        """Predict single images; neighbours of equal size share a pass."""
        with WriteBehind() as writer, contextlib.closing(prefetch(self._read(items), 4)) as images:

            def alike(item: tuple[Input, np.ndarray]) -> object:
                # Of parts, batches end where parts may, so that no answer depends on how many there are.
                return item[1].shape, 0 if self.share is None else self.places[item[0]] // IMAGES

            batches = group(images, alike, self._batch_size)
            found = in_order(self._of_images, batches, self.model.parallel)
            with contextlib.closing(found):
                for batch, maps in found:
                    writer.submit(self._save_images, batch, maps)
                    self.done_images += len(batch)
                    self._advance()

    def _of_images(self, batch: list[tuple[Input, np.ndarray]]) -> tuple[list[tuple[Input, np.ndarray]], list[Maps]]:
        images = [image for _, image in batch]
        with self._regions:  # finding one reads images, once for a size
            try:
                region = self.regions.of_images(images[0].shape)
            except IccldError as error:
                self.problems += [(i, IccldError(f"{i.where}: {error.message}", error.hint)) for i, _ in batch]
                return [], []
        return batch, self._maps(images, region)

    def _save_images(self, batch: list[tuple[Input, np.ndarray]], maps: list[Maps]) -> None:
        done = [
            (item, stage_image_outputs(self.journal, item, image, result, self.options, self.model.header), None)
            for (item, image), result in zip(batch, maps, strict=True)
        ]
        self.journal.publish(done)

    def video(self, item: Input) -> None:
        """Predict one video, stream or camera."""
        try:
            with contextlib.ExitStack() as held:
                if item.live:
                    try:
                        stream = self._opened(item)
                    except KeyboardInterrupt:
                        self.stopped = True
                    else:
                        self._live(item, stream)
                elif item.source is None:
                    self._video(item, item.path)
                else:
                    path = held.enter_context(self._fetched(item))
                    with _named(path, item), VideoReader(path) as opened:
                        self.total += self._frames_of(opened, self._span(item))
                    self._video(item, path)
        except _Unreadable as error:
            problem = error.problem
            if item.where not in problem.message:
                problem = IccldError(f"{item.where}: {problem.message}", problem.hint)
            self.problems.append((item, problem))

    def _video(self, item: Input, path: Path) -> None:
        before = self.done_frames
        try:
            self._from_file(item, path, seek=True)
        except Inexact:  # its key frames do not say where decoding can begin
            self.done_frames = before
            self._from_file(item, path, seek=False)

    def _from_file(self, item: Input, path: Path, seek: bool) -> None:
        with _named(path, item):
            reader = SpanReader(path, seek)
        with reader:
            before = self.done_frames
            try:
                self._region = self.regions.of_video(reader.path)
            except IccldError as error:
                raise _Unreadable(IccldError(error.message.replace(str(reader.path), item.where), error.hint)) from None
            with VideoOutputs(item, reader, self.options, self.model.header, self.journal) as outputs:
                heard = self._video_frames(reader, outputs, self._span(item))
            found, limit = self.done_frames - before, self.options.limit
            facts = VideoFacts(
                found,
                heard.decoded,
                reader.announced,
                reader.damaged if heard.stopped else bool(reader.missing()),
                heard.ended or (limit is not None and found >= limit),
                outputs.ticks or 0,
            )
            problem = None
            if self._span(item) == Span():  # of a stretch, it is known when the whole video is joined
                problem = facts.problem(item.where, outputs.described(), self.options.narrowed())
            if self.share is not None:
                path = self.journal.stage(".json")
                path.write_text(facts.to_json(), encoding="utf-8")
                outputs.publish(problem, Result(path, self.share.facts_path(item)))
            if problem is not None:
                self.problems.append((item, problem))
            if found and self.share is None:
                outputs.publish(problem)

    def _video_frames(self, reader: SpanReader, outputs: VideoOutputs, span: Span) -> _Heard:
        options, heard = self.options, _Heard()
        warm = self._bound(reader, span)

        def choose(index: int, time: Fraction) -> Literal["take", "skip", "end"]:
            choice = options.choose(index, time)
            if choice == "end":
                heard.ended = True
                return "end"
            if choice == "take" and outputs.first is None:
                outputs.first = time
            if span.last is not None and index >= span.last:
                heard.stopped = True
                return "end"
            heard.decoded += index in span
            if index not in span:
                choice = "skip"
            unseen_yet = options.smooth and choice == "skip" and not index % options.every
            return "take" if unseen_yet and index >= warm else choice

        def unseen(frame: VideoFrame) -> bool:
            return frame.index not in span or (options.start is not None and frame.time < options.start)

        frames = prefetch(_limited(reader.frames(choose), options.limit, unseen), 4)
        smoother = Smoother(self.model.header.label_space.names) if options.smooth else None
        with WriteBehind() as writer, contextlib.closing(frames):
            batches = group(  # they end where parts may
                frames, lambda frame: (frame.image.shape, frame.index // options.every // GRID), self._batch_size
            )
            if smoother is None:
                with contextlib.closing(in_order(self._of_frames, batches, self.model.parallel)) as found:
                    for batch, maps in found:
                        for frame, result in zip(batch, maps, strict=True):
                            writer.submit(outputs.write, frame, result)
                        self._did(len(batch))
                return heard
            # Means follow one another; what is made of them at full size need not, and is not made in this thread.
            workers = max(2, self.model.parallel)
            with contextlib.closing(in_order(self._logits, batches, self.model.parallel)) as views:
                steady = self._steadied(views, smoother, unseen)
                with contextlib.closing(in_order(self._steady_frame, steady, workers)) as finished:
                    for frame, result in finished:
                        writer.submit(outputs.write, frame, result)
                        self._did(1)
        return heard

    def _steadied(
        self,
        found: Iterable[tuple[list[VideoFrame], list[list[Logits]]]],
        smoother: Smoother,
        unseen: Callable[[VideoFrame], bool],
    ) -> Iterator[tuple[VideoFrame, list[Logits]]]:
        for batch, every in found:
            for frame, views in zip(batch, every, strict=True):
                steady = smoother.smooth(frame.index // self.options.every, frame.image, views)
                if not unseen(frame):
                    yield frame, steady

    def _steady_frame(self, given: tuple[VideoFrame, list[Logits]]) -> tuple[VideoFrame, Maps]:
        frame, views = given
        size = frame.image.shape[0], frame.image.shape[1]
        answer = segment_frame(views, size, self.options.wants(), self.options.sampling.average)
        return frame, maps_of(answer, [frame.image], self.options, self.model.header, self._video_region(size))[0]

    def _video_region(self, size: tuple[int, int]) -> np.ndarray | None:
        """What is not the scene of the video under work, bool of `size`; of a wrong shape with its first frame."""
        try:
            return None if self._region is None else fitted_region(self._region, size)
        except IccldError as error:
            raise _Unreadable(error) from None

    def _logits(self, batch: list[VideoFrame]) -> tuple[list[VideoFrame], list[list[Logits]]]:
        images = batch[0].image[None] if len(batch) == 1 else np.stack([frame.image for frame in batch])
        return batch, self.model.logits(images, self.options.wants(), self.options.sampling)

    def _bound(self, reader: SpanReader, span: Span) -> int:
        """Tell a reader what is wanted of its video.

        Returns:
            The frame that has to be decoded first: where smoothing begins, before the first one that counts.
        """
        options, every = self.options, self.options.every
        number = -(-(span.first or 0) // every)
        if options.start is not None:
            before = frames_before(reader.path, options.start)
            before = int(options.start * reader.fps) if before is None else before
            number = max(number, -(-before // every))
        reader.needed = (first_needed(number) if options.smooth else number) * every
        reader.last, reader.end = span.last, options.end
        if options.limit is not None:
            last = (number + options.limit - 1) * every + 1
            reader.last = last if reader.last is None else min(reader.last, last)
        return reader.needed

    def _did(self, frames: int) -> None:
        self.done_frames += frames
        self._advance()

    def _live(self, item: Input, reader: LiveReader) -> None:
        """One frame after the other, so that none waits for another; an interrupt ends it."""
        again = "; what a killed run had of it is lost, streams cannot be resumed" if self.journal.owns(item) else ""
        self.tell(f"reading {item.where} until it ends, --end, --limit or Ctrl-C{again}")
        latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._region = self.regions.of_stream()
        before = self.done_frames
        smoother = Smoother(self.model.header.label_space.names) if self.options.smooth else None

        def write(frame: VideoFrame, views: list[Logits]) -> None:
            outputs.write(*self._steady_frame((frame, views)))
            assert frame.arrived is not None
            latencies.append(time.monotonic() - frame.arrived)

        with reader, VideoOutputs(item, reader, self.options, self.model.header, self.journal) as outputs:
            try:
                with WriteBehind(1) as writer:
                    for frame in itertools.islice(reader.frames(self.options.choose), self.options.limit):
                        if self.done_frames == before:  # a region of another shape ends it here, not in the recording
                            self._video_region((frame.image.shape[0], frame.image.shape[1]))
                        views = self._logits([frame])[1][0]
                        if smoother is not None:  # by the count of what was segmented: nothing repeats a stream
                            views = smoother.smooth(self.done_frames - before, frame.image, views)
                        writer.submit(write, frame, views)
                        self._did(1)
            except KeyboardInterrupt:
                self.stopped = True
        found = self.done_frames - before
        problem = reader.problem or (
            None
            if found or self.stopped
            else VideoFacts(0, 0, 0, False, True).problem(item.where, "", self.options.narrowed())
        )
        if problem is not None:
            self.problems.append((item, problem))
        if latencies:
            half, most = np.percentile(latencies, (50, 99))
            self.live.append(LiveFacts(item.where, found, reader.received, (float(half), float(most))))
        if found:
            outputs.publish(problem)

    def _opened(self, item: Input) -> LiveReader:
        assert item.source is not None
        try:
            return LiveReader(item.source, self.tell)
        except IccldError as error:
            raise _Unreadable(error) from None

    @contextlib.contextmanager
    def _fetched(self, item: Input) -> Iterator[Path]:
        """An input's file from its address, for as long as it is needed."""
        path = self.journal.stage(item.path.suffix if item.path.suffix.isascii() else "")
        try:
            try:
                fetch(str(item.source), path, None if item.is_video else MAX_FILE)
            except IccldError as error:
                raise _Unreadable(error) from None
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _of_frames(self, batch: list[VideoFrame]) -> tuple[list[VideoFrame], list[Maps]]:
        images = [frame.image for frame in batch]
        return batch, self._maps(images, self._video_region((images[0].shape[0], images[0].shape[1])))

    def _read(self, items: list[Input]) -> Iterator[tuple[Input, np.ndarray]]:
        fetched = any(item.source is not None for item in items)
        with contextlib.closing(in_order(self._image, items, _FETCHED if fetched else 1)) as found:
            for item, image in zip(items, found, strict=True):
                if isinstance(image, IccldError):
                    self.problems.append((item, image))
                else:
                    yield item, image

    def _image(self, item: Input) -> np.ndarray | IccldError:
        """An image, or what is wrong with it."""
        try:
            if item.source is None:
                return read_image(item.path)
            with self._fetched(item) as path, _named(path, item):
                return read_image(path)
        except _Unreadable as error:
            return error.problem
        except IccldError as error:
            return error

    def _advance(self) -> None:
        self.progress(self.done_images + self.done_frames, self.total)

    def _batch_size(self, item: tuple[Input, np.ndarray] | VideoFrame) -> int:
        image = item.image if isinstance(item, VideoFrame) else item[1]
        return self.options.batch_size or self.model.batch_size(image.shape[:2], self.options.sampling)

    def _maps(self, images: list[np.ndarray], region: np.ndarray | None) -> list[Maps]:
        """Segment images of equal size and keep one byte a pixel of what is asked for."""
        wants = self.options.wants()
        segmentation = self.model.segment(np.stack(images), wants, sampling=self.options.sampling)
        return maps_of(segmentation, images, self.options, self.model.header, region)


def _limited(
    frames: Iterator[VideoFrame], limit: int | None, unseen: Callable[[VideoFrame], bool]
) -> Iterator[VideoFrame]:
    """Frames up to the `limit`th of those that are seen."""
    left = limit
    for frame in frames:
        yield frame
        if left is not None and not unseen(frame):
            left -= 1
            if not left:
                return


def without_existing(
    items: list[Input], all_items: list[Input], options: PredictOptions, journal: Journal | None = None
) -> list[Input]:
    """The inputs to do; checked before the work starts, not after it.

    Args:
        items: Inputs that are left.
        all_items: All inputs, none of which may be replaced.
        options: What is kept of them, and what happens to results that exist.
        journal: Knows which results are the run's own.

    Raises:
        IccldError: A result exists, and nothing is said about those; or it cannot be written.
    """
    inputs = {item.path.resolve() for item in all_items if item.source is None}
    for folder in {path.parent for path in inputs}:
        inputs.update((folder, *folder.parents))
    told = collected.told_names(options.out) if "frames" in options.save else None
    todo: list[Input] = []
    for item in items:
        existing, missing = existing_outputs(item, options, inputs)
        names = [str(path) for path in existing]
        if told is not None and item.name.as_posix() in told:
            names.append(f"a line of {item.name.as_posix()} in {options.out / collected.FRAMES_NAME}")
        whole = not missing and (told is None or item.name.as_posix() in told)
        own = journal is not None and journal.owns(item)
        if names and options.skip_existing and whole and not own:
            continue
        if names and not options.overwrite and not options.skip_existing and not own:
            raise IccldError(f"{names[0]} exists", "give another --out, --overwrite to replace, or --skip-existing")
        todo.append(item)
    return todo
