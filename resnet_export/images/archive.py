"""A `.tar` of pictures, or a WebDataset shard: `000001.jpg` beside `000001.cls` or `000001.json`.

Nothing is unpacked under a name of the archive's; links and other kinds of members are passed over.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from resnet_export.images.picture import Picture
from runtimes.errors import ImageFolderError
from runtimes.io.stand_in import stand_in_at
from runtimes.preprocessing.image_folder import IMAGE_EXTENSIONS, count_other

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MAX_MEMBER_BYTES = 256 << 20


def archive_pictures(path: Path, left_out: Counter[str]) -> Iterator[Picture]:
    """Yield the pictures of an archive; labels from `.cls`/`.json` of the same name, else from the first folder.

    Raises:
        ImageFolderError: If it is no archive, or is cut short.
    """
    try:
        with tarfile.open(path) as archive:
            sidecars = _Sidecars()
            for member in archive:
                if member.isfile() and member.name.lower().endswith((".cls", ".json")) and member.size < 1 << 16:
                    sidecars.add(member.name, _label(_content(archive, member), member.name))
            for member in archive.getmembers():
                if not member.isfile() or PurePosixPath(member.name).name.startswith("."):
                    continue
                if member.name.lower().endswith(IMAGE_EXTENSIONS):
                    if member.size > _MAX_MEMBER_BYTES:
                        raise ImageFolderError(
                            f"{path}: {member.name} has {member.size:,} bytes, too many for a picture"
                        )
                    try:
                        label = sidecars.label_of(member.name, _folder(member.name))
                    except ValueError as err:
                        raise ImageFolderError(f"{path}: {err}") from err
                    yield Picture(PurePosixPath(member.name).name, label, content=_content(archive, member))
                else:
                    count_other(member.name, left_out)
    except (tarfile.TarError, OSError, EOFError) as err:
        raise ImageFolderError(f"{path}: is no whole tar archive ({stand_in_at(path) or err}); copy it again") from err


class _Sidecars:
    """Labels beside pictures: of a picture's own name, else of its sample, which ends at the first dot.

    WebDataset knows samples alone, so that `cat.1.jpg` and `cat.2.jpg` are one; here each finds its own `cat.1.cls`.
    """

    def __init__(self) -> None:
        self._samples: defaultdict[str, dict[str, str | None]] = defaultdict(dict)

    def add(self, name: str, label: str | None) -> None:
        """Keep what a `.cls` or `.json` says; where both say something, `.cls` counts."""
        sample = self._samples[_key(name)]
        if sample.get(_stem(name)) is None or (label is not None and name.lower().endswith(".cls")):
            sample[_stem(name)] = label

    def label_of(self, picture: str, otherwise: str | None) -> str | None:
        """Return the label of a picture, `otherwise` where nothing stands beside it.

        Raises:
            ValueError: If its sample has several, none of its own name.
        """
        sample = self._samples.get(_key(picture), {})
        if _stem(picture) in sample:
            return sample[_stem(picture)]
        labels = sorted({str(label) for label in sample.values() if label is not None})
        if len(labels) > 1:
            raise ValueError(
                f"{picture}: labels of its sample are {', '.join(labels[:3])}, none of its own name; "
                f"expected {PurePosixPath(_stem(picture)).name}.cls beside it"
            )
        return labels[0] if labels else (None if sample else otherwise)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _key(name: str) -> str:
    """Return what members of one sample share: the path up to the first dot of the file name."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _stem(name: str) -> str:
    """Return a member's path up to the last dot of the file name."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.rpartition('.')[0]}"


def _label(content: bytes, name: str) -> str | None:
    text = content.decode("utf-8", "replace").strip()
    if name.lower().endswith(".cls"):
        return text or None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    told = found if isinstance(found, dict) else {}
    value = next((told[key] for key in ("label", "cls", "class", "target") if key in told), None)
    return None if value is None else str(value)


def _folder(name: str) -> str | None:
    """Return the last folder above a picture, as ImageNet's archives have class folders; None for none."""
    parents = [part for part in PurePosixPath(name).parent.parts if part not in (".", "/", "..")]
    return parents[-1] if parents else None
