"""A result says what was done to it, in its metadata and, where asked for, in a signed manifest."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest
from PIL import Image

import configs
from configs import ConfigError
from pipeline import PipelineConfig, __version__, restore_video
from pipeline.cli import main
from pipeline.errors import SinkError
from pipeline.report import manifest
from pipeline.report.provenance import SOURCE_TYPE, settings_hash
from support.clips import astronaut, packets, shown_times, write_clip
from support.films import shown

needs_c2pa = pytest.mark.skipif(
    importlib.util.find_spec("c2pa") is None, reason="c2pa-python is not installed (extra `provenance`)"
)
SETTINGS = ["restorer.kind=support.films:ReferenceRestorer", "track.lookahead=4", "encode.preset=ultrafast"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    return write_clip(path, frames=6, width=240, height=180, rate=Fraction(25), sound=["aac"])


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    from support.signing import write_certificates

    return write_certificates(tmp_path / "signer.pem")


def settings(*changes: str) -> PipelineConfig:
    return configs.load(PipelineConfig, None, [*SETTINGS, *changes])


def comment(path: Path) -> str:
    with av.open(str(path)) as container:
        tags = {name.lower(): value for name, value in container.metadata.items()}
    return str(tags["comment"])


def read(path: Path) -> tuple[str, dict[str, object]]:
    """Whether the manifest fits, and what it says."""
    import c2pa

    with c2pa.Reader(str(path)) as reader:
        return str(reader.get_validation_state()), json.loads(reader.json())


def actions(told: dict[str, object]) -> list[dict[str, object]]:
    active = told["manifests"][told["active_manifest"]]  # type: ignore[index]
    [found] = [each for each in active["assertions"] if each["label"].startswith("c2pa.actions")]
    return found["data"]["actions"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_metadata_say_what_was_done_with_which_weights_and_settings(
    suffix: str, clip: Path, tmp_path: Path
) -> None:
    output = tmp_path / f"out{suffix}"
    config = configs.load(PipelineConfig, None, ["restorer.kind=fast", *SETTINGS[1:]])
    restore_video(clip, output, config)
    said = comment(output)
    assert f"faces restored by anchorface {__version__} (fast" in said
    for name in ("fast.safetensors", "encoder.safetensors", "centerface.onnx"):
        assert name in said
    assert f"settings sha256: {settings_hash(config)}" in said
    assert f"digital source type: {SOURCE_TYPE}" in said


@pytest.mark.parametrize("changes", [["restorer.kind=none"], ["blend.strength=0"]])
def test_nothing_is_claimed_where_no_face_was_changed(changes: list[str], clip: Path, tmp_path: Path) -> None:
    restore_video(clip, tmp_path / "out.mp4", settings(*changes))
    assert comment(tmp_path / "out.mp4") == f"passed through anchorface {__version__}, no face was changed"


def test_the_hash_is_that_of_settings_on_which_faces_depend(
    capsys: pytest.CaptureFixture[str], clip: Path
) -> None:
    same = [
        "chunks.resume=true",
        "chunks.workers=2",
        "output.overwrite=true",
        "restore.batch_size=1",
        "depth=0",
    ]
    assert settings_hash(settings(*same)) == settings_hash(settings())
    assert settings_hash(settings("blend.strength=0.5")) != settings_hash(settings())
    assert main([str(clip), "out.mp4", "--dry-run", "--strength", "0.5"]) == 0
    printed = capsys.readouterr().out
    given = configs.load(PipelineConfig, None, ["blend.strength=0.5"])
    assert f"# settings sha256: {settings_hash(given)}" in printed


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif"])
def test_photos_say_it_too(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(astronaut()).save(tmp_path / "in.png")
    restore_video(tmp_path / "in.png", tmp_path / f"out{suffix}", settings())
    with Image.open(tmp_path / f"out{suffix}") as photo:
        assert f"faces restored by anchorface {__version__}" in photo.getexif()[0x0131]
        xmp = photo.info.get("xmp") or photo.info["XML:com.adobe.xmp"]
    assert SOURCE_TYPE in (xmp.decode() if isinstance(xmp, bytes) else xmp)


@needs_c2pa
@pytest.mark.parametrize("chunks", ["false", "true"])
def test_the_signed_manifest_reads_back_and_changes_no_packet(
    chunks: str, clip: Path, pem: Path, tmp_path: Path
) -> None:
    plain, signed = tmp_path / "plain.mp4", tmp_path / "signed.mp4"
    config = settings(f"output.c2pa={pem}", f"chunks.resume={chunks}")
    restore_video(clip, plain, settings(f"chunks.resume={chunks}"))
    report = restore_video(clip, signed, config)
    state, told = read(signed)
    assert state == "Valid"
    opened, edited = actions(told)
    assert opened["action"] == "c2pa.opened"
    assert edited["action"] == "c2pa.edited"
    assert edited["digitalSourceType"] == SOURCE_TYPE
    assert edited["softwareAgent"] == {"name": "anchorface", "version": __version__}
    parameters = edited["parameters"]
    assert parameters["anchorface.settings_sha256"] == settings_hash(config)  # type: ignore[index]
    assert parameters["anchorface.faces_restored"] == report.restored == 6  # type: ignore[index]
    assert {each["file"] for each in parameters["anchorface.weights"]} >= {"encoder.safetensors"}  # type: ignore[index]
    [ingredient] = told["manifests"][told["active_manifest"]]["ingredients"]  # type: ignore[index]
    assert (ingredient["title"], ingredient["relationship"]) == ("in.mp4", "parentOf")
    kinds = ("video", "audio")
    assert packets(signed, kinds) == packets(plain, kinds)
    assert shown_times(signed) == shown_times(plain)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.mp4", "signed.mp4", "signer.pem"]


@needs_c2pa
@pytest.mark.parametrize("place", [0.5, 0.999])
def test_a_changed_byte_is_detected(place: float, clip: Path, pem: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    restore_video(clip, output, settings(f"output.c2pa={pem}"))
    content = bytearray(output.read_bytes())
    content[int(len(content) * place)] ^= 1
    output.write_bytes(content)
    state, told = read(output)
    assert state == "Invalid"
    assert any("mismatch" in each["code"] for each in told["validation_status"])  # type: ignore[attr-defined]


@needs_c2pa
def test_a_manifest_of_the_input_is_carried_as_its_history(clip: Path, pem: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.mp4", tmp_path / "second.mp4"
    restore_video(clip, first, settings(f"output.c2pa={pem}"))
    restore_video(first, second, settings(f"output.c2pa={pem}", "restorer.kind=none"))
    state, told = read(second)
    assert state == "Valid"
    assert len(told["manifests"]) == 2  # type: ignore[arg-type]
    assert [each["action"] for each in actions(told)] == ["c2pa.opened", "c2pa.transcoded"]


@needs_c2pa
def test_photos_and_films_from_matroska_are_signed(clip: Path, pem: Path, tmp_path: Path) -> None:
    Image.fromarray(astronaut()).save(tmp_path / "in.png")
    restore_video(tmp_path / "in.png", tmp_path / "out.jpg", settings(f"output.c2pa={pem}"))
    assert read(tmp_path / "out.jpg")[0] == "Valid"
    film = write_clip(tmp_path / "in.mkv", frames=3, width=240, height=180)
    restore_video(film, tmp_path / "out.mp4", settings(f"output.c2pa={pem}"))
    assert read(tmp_path / "out.mp4")[0] == "Valid"


def _without_key(path: Path) -> None:
    path.write_text(re.sub(r"-----BEGIN PRIVATE.*", "", path.read_text(), flags=re.DOTALL))


def _of_another(path: Path) -> None:
    from support.signing import write_certificates

    key = write_certificates(path.with_name("other.pem")).read_text()
    _without_key(path)
    path.write_text(path.read_text() + key[key.index("-----BEGIN PRIVATE") :])


def _encrypted(path: Path) -> None:
    from support.signing import write_certificates

    write_certificates(path, password=b"secret")


def _expired(path: Path) -> None:
    from support.signing import write_certificates

    write_certificates(path, days=-1)


@needs_c2pa
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "cannot be read (no such file or directory)"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is no PEM file"),
        (lambda path: path.write_text("hello"), "holds 0 certificates and 0 private keys"),
        (_without_key, "holds 2 certificates and 0 private keys"),
        (_of_another, "is not that of the key"),
        (_encrypted, "is encrypted; write it without a password"),
        (_expired, "cannot sign"),
    ],
)
def test_a_key_that_cannot_be_used_is_told_before_any_work(
    spoil: Callable[[Path], object],
    message: str,
    clip: Path,
    pem: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(pem)
    output = tmp_path / "out.mp4"
    output.write_bytes(b"precious")
    command = [str(clip), str(output), "--c2pa", str(pem), "--overwrite", "--progress", "none"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert output.read_bytes() == b"precious"


@needs_c2pa
def test_a_container_without_a_place_for_manifests_is_refused(clip: Path, pem: Path, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"kind \.mkv cannot hold a manifest \(--c2pa\); write one of \.mp4"):
        restore_video(clip, tmp_path / "out.mkv", settings(f"output.c2pa={pem}"))
    (tmp_path / "photos").mkdir()
    with pytest.raises(SinkError, match="a folder of photos cannot hold a manifest"):
        restore_video(tmp_path / "photos", tmp_path / "out", settings(f"output.c2pa={pem}"))


@needs_c2pa
def test_in_a_queue_only_what_cannot_be_signed_fails(
    clip: Path, pem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_clip(tmp_path / "other.mkv", frames=2, width=64, height=48)
    command = [str(other), str(clip), str(tmp_path / "done"), "--c2pa", str(pem), "--progress", "none"]
    assert main([*command, "--restorer", "none", "--preset", "ultrafast"]) == 4
    assert "1 restored, 1 failed" in capsys.readouterr().out
    assert read(tmp_path / "done" / "in.mp4")[0] == "Valid"


@needs_c2pa
def test_where_signing_fails_in_the_end_the_output_is_kept_without(
    clip: Path, pem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, output = tmp_path / "plain.mp4", tmp_path / "out.mp4"
    restore_video(clip, plain, settings())

    def fail(*values: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(manifest, "_check", fail)
    with pytest.raises(SinkError, match=r"is whole, but it could not be signed \(the disk is full\)"):
        restore_video(clip, output, settings(f"output.c2pa={pem}"))
    assert shown(output) == shown(plain)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "plain.mp4", "signer.pem"]


def test_without_c2pa_one_sentence_says_how_to_get_it(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(ConfigError, match=r"pip install -e \"\.\[provenance\]\""):
        restore_video(clip, tmp_path / "out.mp4", settings("output.c2pa=signer.pem"))
