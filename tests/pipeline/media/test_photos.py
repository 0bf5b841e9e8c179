"""Photos in place of a video."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, features

from pipeline.errors import SinkError, SourceError
from pipeline.media.coding import planes_of
from pipeline.media.photos import PhotoSink, PhotoSource
from support.clips import astronaut, picture, write_clip

PIXELS = picture(0, 60, 40)
KINDS = ["a.jpg", "a.png", "a.webp", "a.tiff", "a.bmp"] + (["a.avif"] if features.check("avif") else [])


def restore(source: PhotoSource, target: Path, **settings: bool) -> None:
    with PhotoSink(target, source, **settings) as sink:
        for frame in source:
            sink.write(frame.native, frame.pts)


def rgb_of(native: object) -> np.ndarray:
    green, blue, red = planes_of(native)  # type: ignore[arg-type]
    return np.dstack([red, green, blue])


@pytest.mark.parametrize("name", KINDS)
def test_photo_comes_back_in_its_own_kind(tmp_path: Path, name: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / name)
    target = tmp_path / f"out{Path(name).suffix}"
    restore(PhotoSource(tmp_path / name), target)
    with Image.open(tmp_path / name) as before, Image.open(target) as after:
        assert after.format == before.format
        old, new = (np.asarray(image.convert("RGB")).astype(int) for image in (before, after))
    assert np.abs(old - new).mean() < 3
    if Path(name).suffix in (".png", ".tiff", ".bmp"):
        assert np.array_equal(old, new)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, target.name])


def test_frame_holds_the_photo_in_full_range_rgb(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    source = PhotoSource(tmp_path / "a.png")
    [frame] = source
    assert (frame.index, frame.pts, frame.native.format.name) == (0, 0, "gbrp")
    assert np.array_equal(rgb_of(frame.native), PIXELS)
    assert source.info.frame_count == 1


@pytest.mark.parametrize("orientation", [3, 6, 8, 2])
def test_photo_is_turned_upright_once(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Camera"
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    undo = {3: (2, 1), 6: (3, 1), 8: (1, 1), 2: (0, -1)}[orientation]
    upright = np.rot90(PIXELS, undo[0])[:, :: undo[1]]
    [frame] = PhotoSource(tmp_path / "a.png")
    assert np.array_equal(rgb_of(frame.native), upright)
    restore(PhotoSource(tmp_path / "a.png"), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert np.array_equal(np.asarray(image), upright)
        assert image.getexif().get(0x0112, 1) == 1
        assert image.getexif()[0x010F] == "Camera"


def test_profile_and_transparency_are_carried(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    alpha = np.linspace(0, 255, 60).astype(np.uint8)[None].repeat(40, 0)
    Image.fromarray(np.dstack([PIXELS, alpha])).save(tmp_path / "a.png", icc_profile=profile)
    restore(PhotoSource(tmp_path / "a.png"), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.info["icc_profile"] == profile
        assert np.array_equal(np.asarray(image), np.dstack([PIXELS, alpha]))
    restore(PhotoSource(tmp_path / "a.png"), tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert np.asarray(image)[:, 0].min() > 230, "transparent is white where there is no transparency"


def test_folder_gives_a_folder_of_the_same_names(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.png", "a.jpg"):
        Image.fromarray(PIXELS).save(folder / name)
    (folder / "c.png").write_text("no picture")
    (folder / "notes.txt").write_text("no photo")
    source = PhotoSource(folder)
    assert source.info.frame_count == 3
    restore(source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "b.png"]
    assert len(source.damage) == 1
    assert "c.png" in source.damage[0]


def test_unreadable_photos_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(SourceError, match="no photo that can be read"):
        list(PhotoSource(tmp_path / "a.png"))
    with pytest.raises(SourceError, match="no such file"):
        PhotoSource(tmp_path / "gone.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no photos in this folder"):
        PhotoSource(tmp_path / "empty")
    Image.fromarray(astronaut()).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)
    with warnings.catch_warnings(), pytest.raises(SourceError, match="more than 200000 pixels"):
        warnings.simplefilter("ignore")
        list(PhotoSource(tmp_path / "bomb.png"))


def test_strict_stops_at_the_first_photo_that_cannot_be_read(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(SourceError, match=r"b\.png: no photo that can be read"):
        list(PhotoSource(tmp_path, strict=True))


def test_folder_without_one_readable_photo_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        (folder / name).write_text("no picture")
    with pytest.raises(SourceError, match=r"none of its 2 photos can be read: .*a\.png"):
        restore(PhotoSource(folder), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(SourceError, match="none of its 2 photos"):
        restore(PhotoSource(folder), tmp_path / "mine")
    assert (tmp_path / "mine").is_dir(), "a folder of the user's stays"


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
@pytest.mark.parametrize("shape", [(20, 20), (20, 20, 3), (20, 20, 4)])
def test_deep_photos_are_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    assert cv2.imwrite(str(tmp_path / name), np.full(shape, 40000, np.uint16))
    with pytest.raises(SourceError, match="more than 8 bits"):
        list(PhotoSource(tmp_path / name))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_deep_avif_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixel_format: str) -> None:
    monkeypatch.setenv("SVT_LOG", "1")
    path = write_clip(tmp_path / "a.avif", codec="libsvtav1", pixel_format=pixel_format, options={}, frames=1)
    source = PhotoSource(path)
    if pixel_format == "yuv420p":
        assert len(list(source)) == 1
    else:
        with pytest.raises(SourceError, match="more than 8 bits"):
            list(source)


def test_names_that_are_too_long_are_one_sentence(tmp_path: Path) -> None:
    long = "a" * 300
    with pytest.raises(SourceError, match="no such file or folder"):
        PhotoSource(tmp_path / f"{long}.png")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(SinkError, match="name too long"):
        PhotoSink(tmp_path / f"{long}.png", PhotoSource(tmp_path / "a.png"))
    with pytest.raises(SinkError, match="name too long"), PhotoSink(tmp_path / long, PhotoSource(tmp_path)):
        pass


@pytest.mark.parametrize("name", ["a.tiff", "a.webp", "a.png"])
def test_further_pictures_of_a_file_are_told(tmp_path: Path, name: str) -> None:
    first = Image.fromarray(PIXELS)
    others = [Image.fromarray(picture(index, 60, 40)) for index in (9, 20)]
    first.save(
        tmp_path / name, save_all=True, append_images=others, **({"lossless": True} if "w" in name else {})
    )
    source = PhotoSource(tmp_path / name)
    [frame] = source
    assert np.array_equal(rgb_of(frame.native), PIXELS)
    [warning] = source.warnings
    assert f"{name}: has 3 pictures, only the first one is restored" in warning


def test_photos_are_never_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    source = PhotoSource(path)
    os.link(path, tmp_path / "link.png")
    for target in (path, tmp_path / "link.png"):
        with pytest.raises(SinkError, match="is the input"):
            PhotoSink(target, source, overwrite=True)
    (tmp_path / "b.png").write_text("precious")
    with pytest.raises(SinkError, match="exists already"):
        PhotoSink(tmp_path / "b.png", source)
    with pytest.raises(SinkError, match="written as one of"):
        PhotoSink(tmp_path / "a.mp4", source)
    restore(source, tmp_path / "b.png", overwrite=True)
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(PIXELS).save(folder / "a.png")
    with pytest.raises(SinkError, match="input folder itself"):
        PhotoSink(folder, PhotoSource(folder), overwrite=True)
    with pytest.raises(SinkError, match="exists already"):
        PhotoSink(tmp_path, PhotoSource(folder))


def test_failed_photo_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")

    def full(self: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SinkError, match="no space left"):
        restore(PhotoSource(tmp_path / "a.png"), tmp_path / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("mode", ["L", "P", "LA", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    name = "a.jpg" if mode == "CMYK" else "a.png"
    image.save(tmp_path / name)
    restore(PhotoSource(tmp_path / name), tmp_path / f"out{Path(name).suffix}")
    with Image.open(tmp_path / f"out{Path(name).suffix}") as after:
        assert after.size == (60, 40)
