"""Choosing calibration images: even over classes, deterministic, disjoint from what measures."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest

from calibration.errors import CalibrationError
from calibration.observers.sample_images import (
    MAX_HELD_OUT,
    MAX_HELD_OUT_FOR_BUDGET,
    MIN_IMAGES,
    check_enough,
    content_sha256,
    drawn_in_words,
    image_list_sha256,
    leave_out_copies,
    proportionally_ordered,
    split_images,
)

ROOT = Path("photos")


def folder(**sizes: int) -> list[Path]:
    return [ROOT / name / f"{index:04}.jpg" for name, size in sorted(sizes.items()) for index in range(size)]


def evenly_ordered(root, paths) -> list[Path]:
    return list(split_images(root, paths, num_calibration=len(paths), hold_out=False).calibration)


def classes(paths) -> Counter:
    return Counter(path.parent.name for path in paths)


class TestOrder:
    def test_holds_every_path_once(self):
        paths = folder(a=7, b=1, c=30)
        assert sorted(evenly_ordered(ROOT, paths)) == sorted(paths)

    def test_every_prefix_is_even_over_the_classes_that_have_images_left(self):
        sizes = {"a": 40, "b": 3, "c": 17}
        order = evenly_ordered(ROOT, folder(**sizes))
        for length in range(1, len(order) + 1):
            counts = classes(order[:length])
            fullest = max(counts.values())
            for name, size in sizes.items():
                assert counts[name] >= min(size, fullest - 1), f"prefix of {length}"

    def test_is_shuffled_inside_a_class_and_deterministic(self):
        paths = folder(a=50)
        order = evenly_ordered(ROOT, paths)
        assert order != paths
        assert order == evenly_ordered(ROOT, paths)

    def test_does_not_touch_the_global_random_state(self):
        random.seed(1)
        expected = random.random()
        random.seed(1)
        evenly_ordered(ROOT, folder(a=50))
        assert random.random() == expected

    def test_does_not_change_its_argument(self):
        paths = folder(a=20, b=20)
        before = list(paths)
        evenly_ordered(ROOT, paths)
        assert paths == before

    def test_flat_folder(self):
        paths = [ROOT / f"{index:03}.jpg" for index in range(40)]
        order = evenly_ordered(ROOT, paths)
        assert sorted(order) == paths
        assert order != paths

    def test_no_images(self):
        assert evenly_ordered(ROOT, []) == []


class TestProportionalOrder:
    SIZES: ClassVar = {"a": 400, "b": 60, "c": 7, "d": 1}

    def test_holds_every_path_once_and_is_the_same_every_time(self):
        paths = folder(**self.SIZES)
        order = proportionally_ordered(ROOT, paths)
        assert sorted(order) == sorted(paths)
        assert order == proportionally_ordered(ROOT, paths) != paths

    def test_a_class_is_off_its_share_of_every_prefix_by_two_images_at_most(self):
        total = sum(self.SIZES.values())
        order = proportionally_ordered(ROOT, folder(**self.SIZES))
        for length in range(1, total + 1):
            counts = classes(order[:length])
            for name, size in self.SIZES.items():
                assert abs(counts[name] - length * size / total) < 2, f"{name}, prefix of {length}"

    def test_accuracy_on_a_prefix_is_that_on_all_where_an_even_one_is_far_off(self):
        # A model that knows the large class and nothing else: 85.5 % of all images.
        right = self.SIZES["a"] / sum(self.SIZES.values())
        paths = folder(**self.SIZES)
        assert classes(proportionally_ordered(ROOT, paths)[:100])["a"] / 100 == pytest.approx(right, abs=0.02)
        assert classes(evenly_ordered(ROOT, paths)[:100])["a"] / 100 < 0.6

    def test_which_of_many_small_classes_come_is_chance_and_not_their_name(self):
        paths = folder(**{f"class{number:04}": 5 for number in range(1000)})
        numbers = [int(path.parent.name.removeprefix("class")) for path in proportionally_ordered(ROOT, paths)[:200]]
        assert len(set(numbers)) > 190
        assert sum(numbers) / 200 == pytest.approx(499.5, abs=60)  # 3 standard deviations of the mean of 200

    def test_flat_folder_is_shuffled(self):
        paths = [ROOT / f"{index:03}.jpg" for index in range(40)]
        assert sorted(proportionally_ordered(ROOT, paths)) == paths
        assert proportionally_ordered(ROOT, paths)[:10] != paths[:10]

    def test_words_say_how_many_of_how_many(self):
        assert drawn_in_words(400, 2624, "cells") == "400 of 2,624 images of cells, drawn in proportion to its classes"
        assert drawn_in_words(7, 7, "cells") == "7 images of cells"


class TestSplit:
    @pytest.mark.parametrize("num_images", [0, 1, 3, 4, 31, 32, 255, 256, 257, 2000])
    @pytest.mark.parametrize("num_calibration", [1, 32, 512])
    def test_disjoint_and_at_most_a_quarter(self, num_images, num_calibration):
        paths = folder(a=num_images - num_images // 3, b=num_images // 3)
        split = split_images(ROOT, paths, num_calibration=num_calibration, hold_out=True)
        assert not set(split.calibration) & set(split.held_out)
        assert set(split.calibration) | set(split.held_out) <= set(paths)
        assert len(set(split.held_out)) == len(split.held_out) == min(MAX_HELD_OUT, num_images // 4)
        assert len(set(split.calibration)) == len(split.calibration)
        assert len(split.calibration) == min(num_calibration, num_images - len(split.held_out))

    def test_without_hold_out_every_image_may_calibrate(self):
        paths = folder(a=30, b=30)
        split = split_images(ROOT, paths, num_calibration=512, hold_out=False)
        assert sorted(split.calibration) == paths
        assert split.held_out == ()

    def test_even_classes_are_even_in_both(self):
        split = split_images(ROOT, folder(a=100, b=100, c=100, d=100), num_calibration=80, hold_out=True)
        assert set(classes(split.calibration).values()) == {20}
        assert set(classes(split.held_out).values()) == {16}

    def test_uneven_classes(self):
        """Every class calibrates as evenly as it can, and what measures is mixed as the folder is."""
        split = split_images(ROOT, folder(big=160, small=40), num_calibration=50, hold_out=True)
        assert classes(split.calibration) == {"big": 25, "small": 25}
        assert classes(split.held_out) == {"big": 40, "small": 10}
        assert set(classes(split.held_out[:4])) == {"big", "small"}, "not class after class"

    def test_many_small_classes(self):
        paths = folder(**{f"c{index:03}": 2 for index in range(300)})
        split = split_images(ROOT, paths, num_calibration=512, hold_out=True)
        assert len(split.held_out) == 64
        assert max(classes(split.held_out).values()) == 1
        assert len(classes(split.calibration)) == 300, "no class is left without calibration"

    def test_fewer_images_are_a_prefix_of_more(self):
        paths = folder(a=50, b=10, c=90)
        few, many = (split_images(ROOT, paths, num_calibration=n, hold_out=True) for n in (10, 100))
        assert many.calibration[:10] == few.calibration
        assert many.held_out == few.held_out

    def test_deterministic(self):
        paths = folder(a=50, b=10)
        first, second = (split_images(ROOT, paths, num_calibration=20, hold_out=True) for _ in range(2))
        assert first == second

    def test_flat_folder(self):
        paths = [ROOT / f"{index:03}.jpg" for index in range(100)]
        split = split_images(ROOT, paths, num_calibration=512, hold_out=True)
        assert (len(split.calibration), len(split.held_out)) == (75, 25)


class TestEnough:
    def test_below_the_minimum(self):
        with pytest.raises(CalibrationError, match=r"photos: 31 images are too few .* at least 32 .* --force"):
            check_enough(MIN_IMAGES - 1, ROOT, force=False)

    def test_where_no_option_forces_none_is_named(self):
        with pytest.raises(CalibrationError, match=r"clip what the others hold$"):
            check_enough(1, ROOT, force=None)

    def test_forced(self):
        check_enough(1, ROOT, force=True)

    def test_the_minimum(self):
        check_enough(MIN_IMAGES, ROOT, force=False)


def write(root: Path, **contents: bytes) -> list[Path]:
    root.mkdir(exist_ok=True)
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return [root / name for name in contents]


class TestLeaveOutCopies:
    def test_different_images(self, tmp_path):
        leave_out_copies(write(tmp_path / "c", a=b"12", b=b"345"), write(tmp_path / "v", a=b"6", c=b"7890"))

    def test_equal_size_is_not_equal_content(self, tmp_path):
        leave_out_copies(write(tmp_path / "c", a=b"12", b=b"34"), write(tmp_path / "v", a=b"13", b=b"43"))

    def test_a_copy_under_another_name(self, tmp_path):
        calibration = write(tmp_path / "c", a=b"other", b=b"image", c=b"third")
        validation = write(tmp_path / "v", x=b"fine!", y=b"image", z=b"other", w=b"xxxxx")
        left = leave_out_copies(calibration, validation)
        assert [path.name for path in left.validation] == ["x", "w"]
        assert left.copies == ((validation[1], calibration[1]), (validation[2], calibration[0]))

    def test_the_same_path(self, tmp_path):
        paths = write(tmp_path / "c", a=b"1", b=b"2")
        with pytest.raises(CalibrationError, match="all 1 validation images"):
            leave_out_copies(paths, paths[1:])

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_a_link(self, tmp_path, link):
        paths = write(tmp_path / "c", a=b"1234")
        (tmp_path / "v").mkdir()
        link(paths[0], tmp_path / "v" / "b")
        with pytest.raises(CalibrationError, match="all 1 validation images"):
            leave_out_copies(paths, [tmp_path / "v" / "b"])

    def test_a_copy_inside_one_set_is_no_matter(self, tmp_path):
        leave_out_copies(write(tmp_path / "c", a=b"11", b=b"11"), write(tmp_path / "v", a=b"22", b=b"22"))

    def test_files_that_cannot_be_opened_are_left_to_the_reader(self, tmp_path):
        """A broken link is one bad image of many; it must not end the run here."""
        calibration, validation = write(tmp_path / "c", a=b"1", empty=b""), write(tmp_path / "v", b=b"2", empty=b"")
        for folder_paths in (calibration, validation):
            (folder_paths[0].parent / "gone").symlink_to(tmp_path / "nothing")
            os.mkfifo(folder_paths[0].parent / "pipe")
            folder_paths += [folder_paths[0].parent / "gone", folder_paths[0].parent / "pipe"]
        leave_out_copies(calibration, validation)

    def test_only_possible_copies_are_read(self, tmp_path, monkeypatch):
        """Two folders of many gigabytes: contents matter only where sizes are equal."""
        calibration = write(tmp_path / "c", a=b"1", b=b"22", c=b"333")
        validation = write(tmp_path / "v", x=b"4444", y=b"55", z=b"66666")
        read = []
        monkeypatch.setattr(
            "calibration.observers.sample_images.content_sha256",
            lambda path: read.append(path.name) or content_sha256(path),
        )
        leave_out_copies(calibration, validation)
        assert sorted(read) == ["b", "y"]

    def test_a_few_copies_are_left_out_and_told(self, tmp_path):
        calibration = write(tmp_path / "c", a=b"one", b=b"two")
        validation = write(tmp_path / "v", **{f"n{number}": b"%03d" % number for number in range(199)}, copy=b"two")
        images = leave_out_copies(calibration, validation)
        assert images.copies == ((tmp_path / "v" / "copy", tmp_path / "c" / "b"),)
        assert images.validation == tuple(validation[:-1])

    def test_one_and_the_same_file_is_left_out_like_a_copy(self, tmp_path):
        calibration = write(tmp_path / "c", a=b"one")
        validation = write(tmp_path / "v", **{f"n{number}": b"%03d" % number for number in range(199)})
        images = leave_out_copies(calibration, [*validation, *calibration])
        assert images.validation == tuple(validation)
        assert images.copies == ((calibration[0], calibration[0]),)


class TestHash:
    def test_changes_with_order_name_content_and_number(self, tmp_path):
        first, second, third = write(tmp_path, a=b"1", b=b"2", c=b"1")
        hashes = [
            image_list_sha256(tmp_path, paths)
            for paths in ([first, second], [second, first], [third, second], [first], [first, second, second], [])
        ]
        assert len(set(hashes)) == len(hashes)
        before = hashes[0]
        second.write_bytes(b"3")
        assert image_list_sha256(tmp_path, [first, second]) != before

    def test_does_not_change_with_the_place_of_the_folder(self, tmp_path):
        for name in ("here", "there"):
            (tmp_path / name / "cat").mkdir(parents=True)
            (tmp_path / name / "cat" / "1.jpg").write_bytes(b"1")
        hashes = {image_list_sha256(tmp_path / name, [tmp_path / name / "cat" / "1.jpg"]) for name in ("here", "there")}
        assert len(hashes) == 1
        assert len(hashes.pop()) == 64

    def test_known_value(self, tmp_path):
        """Written down, because calibration.json of different machines are compared by it."""
        import hashlib

        (tmp_path / "cat").mkdir()
        (tmp_path / "cat" / "1.jpg").write_bytes(b"1")
        expected = hashlib.sha256(b"cat/1.jpg\0" + hashlib.sha256(b"1").digest()).hexdigest()
        assert image_list_sha256(tmp_path, [tmp_path / "cat" / "1.jpg"]) == expected

    def test_odd_names(self, tmp_path):
        path = tmp_path / "\udcff.jpg"
        path.write_bytes(b"1")
        assert len(image_list_sha256(tmp_path, [path])) == 64

    def test_files_that_cannot_be_opened_are_left_out(self, tmp_path):
        (good,) = write(tmp_path, a=b"1")
        (tmp_path / "gone").symlink_to(tmp_path / "nothing")
        assert image_list_sha256(tmp_path, [good, tmp_path / "gone"]) == image_list_sha256(tmp_path, [good])


def test_a_budget_holds_out_more_but_never_more_than_a_quarter(tmp_path):
    for number in range(2000):
        (tmp_path / f"{number}.png").touch()
    paths = sorted(tmp_path.iterdir())
    usual = split_images(tmp_path, paths, num_calibration=512, hold_out=True)
    budget = split_images(tmp_path, paths, num_calibration=512, hold_out=True, max_held_out=MAX_HELD_OUT_FOR_BUDGET)
    few = split_images(tmp_path, paths[:100], num_calibration=512, hold_out=True, max_held_out=MAX_HELD_OUT_FOR_BUDGET)
    assert (len(usual.held_out), len(budget.held_out), len(few.held_out)) == (64, 500, 25)
    assert len(budget.calibration) == 512
    assert not set(budget.held_out) & set(budget.calibration)
