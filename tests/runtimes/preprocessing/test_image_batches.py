"""image_batches: order, bad files, the bounded window and an early end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtimes.errors import ImageFolderError
from runtimes.preprocessing import image_batches as image_batches_module
from runtimes.preprocessing.decode import read_image
from runtimes.preprocessing.image_batches import Batch, image_batches
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing, preprocess

SMALL = Preprocessing(10, (8, 8), Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)


def write_images(folder: Path, num_images: int, *, bad: tuple[int, ...] = ()) -> list[Path]:
    paths = []
    for index in range(num_images):
        path = folder / f"{index:04}.png"
        if index in bad:
            path.write_bytes(b"not an image")
        else:
            values = np.random.default_rng(index).integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(values).save(path)
        paths.append(path)
    return paths


def collect(paths: list[Path], **options: object) -> tuple[list[Batch], list[str]]:
    errors: list[str] = []
    options = {"batch_size": 4, "on_error": errors.append, **options}
    return list(image_batches(paths, SMALL, **options)), errors


def reader_threads() -> int:
    return sum(thread.name.startswith("read_image") for thread in threading.enumerate())


class Counter:
    """Stands for read_image and counts the decodes that were begun."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.lock = threading.Lock()
        self.seconds = seconds
        self.begun = 0

    def __call__(self, path: Path) -> Image.Image:
        with self.lock:
            self.begun += 1
        time.sleep(self.seconds)
        return Image.new("RGB", (8, 8))


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize(
    ("num_images", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (1, 1, [1]), (3, 1, [1, 1, 1])],
)
def test_batches_in_order(tmp_path, workers, num_images, batch_size, sizes):
    paths = write_images(tmp_path, num_images)
    batches, errors = collect(paths, batch_size=batch_size, workers=workers)
    assert [len(batch.paths) for batch in batches] == sizes
    assert [path for batch in batches for path in batch.paths] == paths
    assert len(errors) == 0
    for batch in batches:
        assert batch.images.shape == (len(batch.paths), 3, 8, 8)
        assert batch.images.dtype == np.float32
        assert batch.images.flags.c_contiguous
        for image, path in zip(batch.images, batch.paths, strict=True):
            assert np.array_equal(image, preprocess(SMALL, read_image(path)))


def test_batches_are_the_callers_own(tmp_path):
    paths = write_images(tmp_path, 4)
    kept = []
    for batch in image_batches(paths, SMALL, batch_size=2):
        kept.append(batch.images.copy())
        batch.images[:] = 0
    assert np.array_equal(np.concatenate(kept), np.stack([preprocess(SMALL, read_image(path)) for path in paths]))


def test_bad_images_are_left_out_and_recorded(tmp_path):
    paths = write_images(tmp_path, 12, bad=(0, 5, 11))
    batches, errors = collect(paths, max_bad_fraction=0.25)
    good = [path for index, path in enumerate(paths) if index not in (0, 5, 11)]
    assert [path for batch in batches for path in batch.paths] == good
    assert [len(batch.paths) for batch in batches] == [4, 4, 1]
    for path, reason in zip((paths[0], paths[5], paths[11]), errors, strict=True):
        assert str(path) in reason
        assert "not an image" in reason


def test_a_strip_counts_as_bad(tmp_path, monkeypatch):
    monkeypatch.setattr("runtimes.preprocessing.resize._MAX_RESIZED_PIXELS", 500)
    paths = write_images(tmp_path, 3)
    Image.new("RGB", (1, 50)).save(paths[1])
    batches, errors = collect(paths, max_bad_fraction=0.5)
    assert batches[0].paths == (paths[0], paths[2])
    assert str(paths[1]) in errors[0]
    assert "1 x 50" in errors[0]


def test_bad_fraction_is_of_all_paths(tmp_path):
    """29 of 100 is not more than 0.29, though 0.29 * 100 is less than 29 in binary; 30 of 100 is."""
    paths = write_images(tmp_path, 100, bad=tuple(range(29)))
    assert len(collect(paths, max_bad_fraction=0.29)[1]) == 29
    paths[99].write_bytes(b"not an image")
    with pytest.raises(ImageFolderError, match="30 of 100 images"):
        collect(paths, max_bad_fraction=0.29)


def test_too_many_bad_images_end_the_stream_at_once(tmp_path, monkeypatch):
    paths = write_images(tmp_path, 200, bad=(2, 3, 4))
    seen = []
    original = read_image
    monkeypatch.setattr(image_batches_module, "read_image", lambda path: seen.append(path) or original(path))
    errors: list[str] = []
    with pytest.raises(
        ImageFolderError, match=r"3 of 200 images could not be read so far, expected at most 1\.00%"
    ) as caught:
        list(image_batches(paths, SMALL, batch_size=4, on_error=errors.append))
    assert all(str(paths[index]) in str(caught.value) for index in (2, 3, 4))
    assert len(errors) == 3
    assert len(seen) < 20
    assert reader_threads() == 0


def test_message_names_at_most_five(tmp_path):
    paths = write_images(tmp_path, 8, bad=tuple(range(8)))
    with pytest.raises(ImageFolderError) as caught:
        collect(paths, max_bad_fraction=0.99)
    message = str(caught.value)
    assert "8 of 8 images" in message
    assert [str(path) in message for path in paths] == [True] * 5 + [False] * 3
    assert message.endswith("and 3 more")


def test_no_readable_image_is_an_error_even_if_all_may_be_bad(tmp_path):
    paths = write_images(tmp_path, 3, bad=(0, 1, 2))
    with pytest.raises(ImageFolderError, match="none of the 3 images could be read"):
        collect(paths, max_bad_fraction=1.0)


def test_missing_file_is_a_bad_image(tmp_path):
    paths = [*write_images(tmp_path, 2), tmp_path / "gone.png"]
    _, errors = collect(paths, max_bad_fraction=0.5)
    assert len(errors) == 1
    assert "gone.png" in errors[0]


def test_a_bug_is_not_taken_for_a_bad_image(tmp_path, monkeypatch):
    def broken(path):
        raise ZeroDivisionError

    monkeypatch.setattr(image_batches_module, "read_image", broken)
    with pytest.raises(ZeroDivisionError):
        collect([tmp_path / "x.png"])
    assert reader_threads() == 0


@pytest.mark.parametrize(("batch_size", "workers"), [(8, 2), (1, 2), (4, 9)])
def test_window_is_bounded(monkeypatch, batch_size, workers):
    """However slow the caller, at most the batch in its hands and one more window are begun."""
    counter = Counter()
    monkeypatch.setattr(image_batches_module, "read_image", counter)
    paths = [Path(f"{index}.png") for index in range(200)]
    given = 0
    for batch in image_batches(paths, SMALL, batch_size=batch_size, workers=workers):
        given += len(batch.paths)
        time.sleep(0.002)
        with counter.lock:
            assert counter.begun - given <= max(batch_size, workers)
    assert given == counter.begun == 200


def test_decodes_ahead_while_the_caller_works(monkeypatch):
    counter = Counter()
    monkeypatch.setattr(image_batches_module, "read_image", counter)
    stream = image_batches([Path("x")] * 50, SMALL, batch_size=5)
    next(stream)
    deadline = time.monotonic() + 5
    while counter.begun < 9 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert counter.begun >= 9
    stream.close()


def test_early_close_is_prompt(monkeypatch):
    counter = Counter(seconds=0.02)
    monkeypatch.setattr(image_batches_module, "read_image", counter)
    stream = image_batches([Path("x")] * 10_000, SMALL, batch_size=16)
    next(stream)
    begun = counter.begun
    begin = time.monotonic()
    stream.close()
    assert time.monotonic() - begin < 1.0
    assert reader_threads() == 0
    assert counter.begun <= begun + 2, "only what the two threads were at may be finished"


def test_break_and_errors_of_the_caller_end_the_threads(tmp_path):
    paths = write_images(tmp_path, 20)
    for _ in image_batches(paths, SMALL, batch_size=2):
        break
    assert reader_threads() == 0

    def interrupted() -> None:
        for _ in image_batches(paths, SMALL, batch_size=2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reader_threads() == 0


def test_interrupt_while_waiting_for_a_decode(monkeypatch):
    """Ctrl-C reaches the main thread inside the generator, not in the caller's loop."""

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(image_batches_module, "read_image", Counter())
    stream = image_batches([Path("x")] * 1000, SMALL, batch_size=4)
    next(stream)
    monkeypatch.setattr(image_batches_module, "normalize", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert reader_threads() == 0


def test_nothing_is_read_before_the_first_batch_is_asked_for(monkeypatch):
    counter = Counter()
    monkeypatch.setattr(image_batches_module, "read_image", counter)
    image_batches([Path("x")] * 10, SMALL, batch_size=2)
    assert counter.begun == 0
    assert reader_threads() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"workers": 0}, "workers 0"),
        ({"max_bad_fraction": 1.5}, "1.5"),
        ({"max_bad_fraction": float("nan")}, "nan"),
        ({"paths": []}, "got no paths"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(change, message):
    options = {"paths": [Path("x")], "batch_size": 2, **change}
    with pytest.raises(ValueError, match=message):
        image_batches(options.pop("paths"), SMALL, **options)
