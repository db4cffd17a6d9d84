"""What a training takes of its folders and what it leaves out, in the words that check-data uses too."""

import collections
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from .image import shown
from .listing import is_hidden, is_system
from .path_list import PathList

_EXAMPLES = 10
_FEW = 5                    # kinds and folders that are named
_LOOKED_AT = 2000           # names of a folder that are looked at for masks, and folders
_SHARE = 0.2                # of names that look like masks: less is an accident

_VIDEOS = frozenset('.mp4 .m4v .avi .mov .mkv .webm .mpg .mpeg .wmv .flv'.split())
FRAMES = 'ffmpeg -i VIDEO -vf fps=1 FRAMES/%06d.jpg'
# pictures, or what holds some, of kinds that are not read: many of them are no accident
_PICTURES = _VIDEOS | frozenset(
    '.avif .heic .heif .jp2 .j2k .jpx .jxl .exr .hdr .tga .psd .svg .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .raw .dcm '
    '.nii .nrrd .mha .npy .npz .mat .h5 .hdf5 .czi .lif .nd2 .svs .ndpi .zip .tar .gz .tgz .7z '
    '.rar .tfrecord .parquet'.split())
# a folder holds masks if its name has a word of the first group, and others of both groups only: 'with_mask' is a class
_MASK = frozenset('mask masks label labels annotation annotations annot annots gt gts truth groundtruth trimap trimaps '
                  'segmentation segmentations seg segmap segmaps segmask segmasks stuffthingmaps panoptic '
                  '标注 标签 掩码 掩膜 遮罩'.split())
_BESIDE = frozenset('train val test training validation testing trainval trainvaltest ground pixel pixelmaps maps map '
                    'class object semantic instance fine coarse binary png pngs raw aug ids id color colour images '
                    'image img all'.split())
_WORDS = re.compile(r'[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\da-zA-Z_]+')
_MASK_NAME = re.compile(r'.*[^a-z](?:masks?|gt|seg|segmentation|labels?|(?:label|instance|train)_?(?:train)?ids|trimap|'
                        r'annotation|groundtruth)(?:[_-]?\d+)?', re.I)


def ending(name: str) -> str:
    """'.png' of 'a.PNG'; '(none)' without one."""
    return os.path.splitext(name)[1].lower() or '(none)'


def _counted(counts):
    """'3 .txt, 1 .csv ...', the most frequent first."""
    found = sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))
    return ', '.join(f'{n} {shown(name)[1:-1]}' for name, n in found[:_FEW]) + ' ...' * (len(found) > _FEW)


class LeftOut:
    """What a listing passes over: give `add` as its `left_out`.

    Attributes:
        kinds: Counter of endings of files that are no images by their name.
        hidden: number of files and folders whose name begins with a dot.
        systems: Counter of names of folders that systems make: bins, previews.
        examples: paths of some of the files.
    """

    def __init__(self) -> None:
        self.kinds: collections.Counter[str] = collections.Counter()
        self.systems: collections.Counter[str] = collections.Counter()
        self.hidden = 0
        self.examples: list[str] = []

    def add(self, entry: os.DirEntry, folder: str) -> None:
        """Note an entry that `listing.scan` passes over in `folder`."""
        if is_system(entry.name):
            self.systems[entry.name] += 1
        elif is_hidden(entry.name):
            self.hidden += 1
        else:
            self.kinds[ending(entry.name)] += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(os.path.join(folder, entry.name))

    def words(self) -> str:
        """Such as '4 files that are no images by their ending (3 .txt, 1 .csv), 1 hidden files or folders'; or ''."""
        parts = [(sum(self.kinds.values()), f'files that are no images by their ending ({_counted(self.kinds)})'),
                 (sum(self.systems.values()), f'folders of the system ({_counted(self.systems)})'),
                 (self.hidden, 'hidden files or folders')]
        return ', '.join(f'{number} {what}' for number, what in parts if number)

    def unread_pictures(self) -> str:
        """A sentence if some of the files are pictures of kinds that are not read; or ''."""
        found = {kind: n for kind, n in self.kinds.items() if kind in _PICTURES}
        frames = f' Of a video write the frames: {FRAMES}.' if found.keys() & _VIDEOS else ''
        return f'{sum(found.values())} of the files left out are or hold pictures of kinds that are not read: ' \
               f'{_counted(found)}. Write them as PNG, TIFF or JPEG.{frames}' if found else ''


def is_video(name: str) -> bool:
    """By its ending."""
    return ending(name) in _VIDEOS


def holds_masks(name: str) -> bool:
    """Whether a folder holds masks, by its name."""
    words = [w.lower() for w in _WORDS.findall(name)]
    return any(w in _MASK for w in words) and all(w in _MASK or w in _BESIDE for w in words)


def _mask_at(parts):
    """The place in a path of the first folder that holds masks by its name; None: there is none."""
    return next((i for i, part in enumerate(parts) if holds_masks(part)), None)


def _mask_folders(folders):
    """{name: number of images} of folders that hold masks by their name, if others hold none."""
    found, others = collections.Counter(), 0
    for folder, count in folders:
        parts = folder.split(os.sep)
        at = _mask_at(parts)
        if at is None:
            others += count
        else:
            found[parts[at]] += count
    return found if others else {}


def _mask_names(names):
    """An example of the names of one folder, if many look like masks beside the others, as `1_mask.png` or `1.png`
    beside `1.jpg` do; or None."""
    stems = [os.path.splitext(name) for name in names]
    marked = [stem + end for stem, end in stems if _MASK_NAME.fullmatch(stem)]
    if _SHARE * len(stems) <= len(marked) < len(stems):
        return marked[0]
    kinds = collections.defaultdict(set)
    for stem, end in stems:
        kinds[stem].add(end.lower())
    twice = [stem for stem, ends in kinds.items() if len(ends) > 1 and ends & {'.png', '.bmp', '.gif', '.tif', '.tiff'}]
    if len(twice) < _SHARE * len(stems) or not twice:
        return None
    return twice[0] + max(kinds[twice[0]] - {'.jpg', '.jpeg'})


def _below(folder, tops):
    """The part of the path that the user did not name."""
    top = next((t for t in tops if folder.startswith(os.path.join(t, ''))), '')
    return folder[len(os.path.join(top, '')) if top else 0:].rstrip(os.sep)


def without_masks(paths: PathList, top: str) -> tuple[list[str], int]:
    """(folders below `top` that hold its images but for those in folders whose name says masks, how many are left out).

    ([top], 0) if no such folder lies beside others, or if images lie directly in a folder that has one below it.
    """
    counted = [(tuple(_below(folder, [top]).split(os.sep)), count) for folder, count in paths.folders() if count]
    masks = {parts: at for parts, _ in counted for at in [_mask_at(parts)] if at is not None}
    above = {parts[:k] for parts, at in masks.items() for k in range(at + 1)}       # folders above a folder of masks
    kept = {next((parts[:k] for k in range(1, len(parts) + 1) if parts[:k] not in above), ())
            for parts, _ in counted if parts not in masks}
    if not masks or not kept or kept & {(), ('',)}:
        return [top], 0
    return sorted(os.path.join(top, *parts) for parts in kept), sum(count for parts, count in counted if parts in masks)


def masks_among(paths: PathList, tops: Sequence[str]) -> str:
    """A sentence if masks seem to be among the images, by the names of folders and files; or ''.

    Args:
        paths: the images. tops: the folders that the user named.
    """
    blocks = [(_below(folder, tops), number, count) for number, (folder, count) in enumerate(paths.folders())]
    found = _mask_folders((folder, count) for folder, _, count in blocks)
    if found:
        what = f"{sum(found.values())} of {len(paths)} images lie in folders whose name says masks ({_counted(found)})"
    else:
        largest = sorted(blocks, key=lambda b: -b[2])[:_FEW]
        examples = [e for e in (_mask_names(paths.names(number)[:_LOOKED_AT]) for _, number, _ in largest) if e]
        if not examples:
            return ''
        what = f'Files such as {shown(examples[0])} look like masks of the images beside them'
    return f'{what}. A pre-training would learn from them as from photographs. Name the folders of the images alone ' \
           '(dataroot may be a list), or a list of files (ImageList).'


def _folders(paths, tops):
    """'4 folders (images/train 6 ...)'; with many, by the first part of their path."""
    folders = [(_below(folder, tops), count) for folder, count in paths.folders() if count]
    sums = collections.Counter()
    for folder, count in folders:
        sums[folder if len(folders) <= _FEW else folder.split(os.sep)[0]] += count
    largest = sorted(sums.items(), key=lambda kv: (-kv[1], kv[0]))
    text = ', '.join(f"{shown(folder or '.')[1:-1]} {count}" for folder, count in largest[:_FEW])
    return f"{len(folders)} folder{'s' * (len(folders) > 1)} ({text}{' ...' * (len(largest) > _FEW)})"


def describe_images(dataset: Any, part: str) -> tuple[list[str], list[str]]:
    """(lines, warnings) about the images of a data set: of which kind, in which folders, what was left out and why.

    Nothing is opened; of a set that is not made of files both are empty.

    Args:
        dataset: with its `samples`, and `tops` and `left_out` if it listed folders.
        part: 'dataloader.train', for the line.
    """
    paths: Any = dataset.samples
    if not isinstance(paths, PathList) or not len(paths):
        return [], []
    tops: Iterable[str] = getattr(dataset, 'tops', ())
    left: Optional[LeftOut] = getattr(dataset, 'left_out', None)
    lines = [f'{part}: {len(paths)} images ({_counted(paths.endings())}) in {_folders(paths, list(tops))}.']
    warnings = []
    if left is not None and left.words():
        lines.append(f'{part}: left out of the images: {left.words()}.')
        warnings.append(left.unread_pictures())
    if not dataset.return_label:
        warnings.append(masks_among(paths, list(tops)))
    return lines, [w for w in warnings if w]
